"""Resources as the scheduler counts them: integers by name, summed as kube-scheduler sums them.

CPU counts in thousandths of a core, all else in whole units: bytes, devices, pods.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache
from typing import Any, Final

CPU: Final = "cpu"
MEMORY: Final = "memory"
PODS: Final = "pods"
"""Every pod takes one of a node's places for pods."""

ResourceAmounts = Mapping[str, int]
"""Amounts by resource; those of zero are left out."""

COORDINATOR_RESOURCES: Final[Mapping[str, Any]] = {
    "requests": {"cpu": "100m", "memory": "128Mi"},
    "limits": {"memory": "1Gi"},
}
"""Resources of a coordinator whose job names none."""
MAX_AMOUNT: Final = 2**63 - 1
"""What the API server caps a quantity at."""
_MAX_DIGITS: Final = 19
"""Digits of `MAX_AMOUNT`; an exponent may be so large that its number would fill the memory."""
_FACTORS: Final = {
    **{f"{prefix}i": Decimal(1024) ** power for power, prefix in enumerate("KMGTPE", 1)},
    **{prefix: Decimal(1000) ** power for power, prefix in enumerate("kMGTPE", 1)},
    "m": Decimal("1e-3"),
    "u": Decimal("1e-6"),
    "n": Decimal("1e-9"),
    "": Decimal(1),
}
_QUANTITY: Final = re.compile(
    r"(?P<number>[0-9]{1,32}(\.[0-9]{0,32})?([eE][-+]?[0-9]{1,9})?)(?P<suffix>[KMGTPE]i|[numkMGTPE]|)",
    re.ASCII,
)
_BYTES: Final = ("ephemeral-storage", "hugepages-")
_POD_LEVEL: Final = (CPU, MEMORY)
"""Resources that a pod may request as a whole, beside huge pages."""


def is_extended(resource: str) -> bool:
    """Whether it is an extended resource, such as an accelerator or a network device."""
    return "/" in resource and "kubernetes.io/" not in resource


def amount(resource: str, quantity: object) -> int:
    """A quantity such as `1500m`, `16Gi`, `1k` or `2` as an integer, rounded up.

    Raises ValueError for what is no quantity.
    """
    text = str(quantity)
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:64]!r} is not a quantity")
    number, factor = Decimal(match["number"]), _FACTORS[match["suffix"]]
    if resource == CPU:
        factor *= 1000
    digits = number.adjusted() + factor.adjusted()
    if not number or digits < -_MAX_DIGITS:
        return int(number > 0)
    if digits >= _MAX_DIGITS:
        return MAX_AMOUNT
    return min(int((number * factor).to_integral_value(rounding=ROUND_CEILING)), MAX_AMOUNT)


def amounts(quantities: Mapping[str, Any] | None) -> dict[str, int]:
    """The amounts of a map of quantities, without those that are zero or no quantity."""
    found = {}
    for resource, quantity in (quantities or {}).items():
        try:
            count = amount(resource, quantity)
        except ValueError:
            continue
        if count > 0:
            found[resource] = count
    return found


def format_amount(resource: str, count: int) -> str:
    """An amount for people: `2 nvidia.com/gpu`, `500m cpu`, `16Gi memory`."""
    if resource == CPU:
        return f"{count // 1000} cpu" if count % 1000 == 0 else f"{count}m cpu"
    if resource == MEMORY or resource.startswith(_BYTES):
        power = next((p for p in (3, 2, 1) if count >= 1024**p), 0)
        return f"{count / 1024**power:.4g}{('', 'Ki', 'Mi', 'Gi')[power]} {resource}"
    return f"{count} {resource}"


def container_requests(resources: Mapping[str, Any] | None) -> dict[str, int]:
    """What a container requests: where it sets a limit alone, the limit is requested."""
    resources = resources or {}
    requests = resources.get("requests") or {}
    return amounts({**(resources.get("limits") or {}), **requests})


def pod_requests(spec: Mapping[str, Any]) -> ResourceAmounts:
    """What kube-scheduler counts of a pod, by its spec; equal results are one object.

    Containers and side-cars (init containers that restart always) run together; an ordinary init
    container runs beside the side-cars started before it. CPU, memory and huge pages that the pod
    requests as a whole replace the sum; the overhead of its runtime class is added.
    """
    total: dict[str, int] = {}
    for container in spec.get("containers") or ():
        _add(total, container_requests(container.get("resources")))
    sidecars: dict[str, int] = {}
    peak: dict[str, int] = {}
    for container in spec.get("initContainers") or ():
        requests = container_requests(container.get("resources"))
        if container.get("restartPolicy") == "Always":
            _add(total, requests)
            _add(sidecars, requests)
            requests = sidecars
        else:
            _add(requests, sidecars)
        _raise(peak, requests)
    _raise(total, peak)
    for resource, count in container_requests(spec.get("resources")).items():
        if resource in _POD_LEVEL or resource.startswith("hugepages-"):
            total[resource] = count
    _add(total, amounts(spec.get("overhead")))
    total[PODS] = 1
    return _shared(tuple(sorted(total.items())))


@lru_cache(maxsize=4096)
def _shared(items: tuple[tuple[str, int], ...]) -> ResourceAmounts:
    """One object for the thousands of pods that request the same."""
    return dict(items)


def _add(total: dict[str, int], more: ResourceAmounts) -> None:
    for resource, count in more.items():
        total[resource] = total.get(resource, 0) + count


def _raise(total: dict[str, int], least: ResourceAmounts) -> None:
    for resource, count in least.items():
        total[resource] = max(total.get(resource, 0), count)


def with_accelerators(resources: Mapping[str, Any], resource: str, count: int) -> dict[str, Any]:
    """The resources of a container that has `count` accelerators as well.

    Extended resources are requested by their limit; Kubernetes copies it.
    """
    if not count:
        return dict(resources)
    return {**resources, "limits": {**(resources.get("limits") or {}), resource: str(count)}}


def taint_keys(resources: Iterable[str]) -> tuple[str, ...]:
    """Keys of the taints that nodes with these extended resources commonly have.

    The resource's own name, and its vendor's `gpu`: nodes whose GPUs are divided, as into
    `nvidia.com/mig-1g.5gb`, still have the taint `nvidia.com/gpu`.
    """
    keys: dict[str, None] = {}
    for resource in resources:
        if is_extended(resource):
            keys[resource] = None
            keys[f"{resource.partition('/')[0]}/gpu"] = None
    return tuple(keys)
