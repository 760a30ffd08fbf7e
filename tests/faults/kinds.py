"""The kinds of jobs: their manifests, their changes of size, and the pods of a running one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.support import manifests
from tests.support.manifests import Object

MAX_SIZE = 4
"""Workers of the largest job."""
MANY_RESTARTS = {"maxRestarts": 10_000}
NO_COOLDOWN = {"policy": "Manual", "cooldown": "0s", "maxChangesPerHour": 3600}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of job."""

    plural: str
    make: Callable[[str, str, int], Object]
    """The manifest for a name, a pool of nodes and a size."""
    size: Callable[[int], Object]
    """The patch of the spec for a size."""
    can_shrink: bool
    members: Callable[[int], set[tuple[str, str]]]
    """Role and index or party of each pod of a running job of a size."""
    trainers: str
    """The role of the pods that train."""


def _distributed(name: str, pool: str, size: int) -> Object:
    manifest = manifests.job(name, pool, size, minimum=1, maximum=MAX_SIZE, failure=MANY_RESTARTS)
    manifest["spec"]["scaling"] = NO_COOLDOWN
    return manifest


DISTRIBUTED = Kind(
    plural="distributedjobs",
    make=_distributed,
    size=lambda size: {"workers": {"replicas": size}},
    can_shrink=True,
    members=lambda size: {("coordinator", "0"), *(("worker", str(i)) for i in range(size))},
    trainers="worker",
)


def _parties(size: int) -> list[Object]:
    """Parties of which every second one has a GPU."""
    return [{"name": f"party-{i}", "gpus": i % 2} for i in range(size)]


def _federated(name: str, pool: str, size: int) -> Object:
    base = manifests.job(name, pool)["spec"]
    return {
        "apiVersion": "trainyard.dev/v1alpha1",
        "kind": "FederatedJob",
        "metadata": {"name": name},
        "spec": {
            "task": base["task"],
            "image": base["image"],
            "parties": _parties(size),
            "rounds": {"minParties": 1},
            "template": base["workers"]["template"],
            "coordinator": {},
            "failure": MANY_RESTARTS,
        },
    }


FEDERATED = Kind(
    plural="federatedjobs",
    make=_federated,
    size=lambda size: {"parties": _parties(size)},
    can_shrink=False,
    members=lambda size: {("coordinator", "0"), *(("party", f"party-{i}") for i in range(size))},
    trainers="party",
)

KINDS = (DISTRIBUTED, FEDERATED)
