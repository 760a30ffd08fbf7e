"""What this version can run: fields that it does not implement are rejected, never ignored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import msgspec

from trainyard.api.confinement import forbidden_mounts
from trainyard.api.federation import FederatedJobSpec, Privacy
from trainyard.api.spec import DistributedJobSpec, JobSpec, WithArguments


def _one_of(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _privacy(spec: FederatedJobSpec) -> Privacy:
    return spec.privacy or Privacy()


_Spec = TypeVar("_Spec", bound=JobSpec)
_Rule = tuple[str, Callable[[_Spec], bool], str]
"""A field, whether a spec sets it to something unsupported, and what to set instead."""

STRATEGIES = ("FedAvg", "FedProx", "FedAdam")
"""Strategies that the trainer of this version implements."""

_COMMON: tuple[_Rule[JobSpec], ...] = (
    ("failure.hungAfterSteps", lambda s: s.failure.hung_after_steps != 10, "leave it out"),
    ("adjustments", lambda s: bool(s.adjustments), "leave it out"),
    ("failure.retry", lambda s: s.failure.retry != "Step", "use Step"),
    ("failure.rules", lambda s: bool(s.failure.rules), "leave it out"),
    ("failure.replaceStragglers", lambda s: s.failure.replace_stragglers, "use false"),
)

_DISTRIBUTED: tuple[_Rule[DistributedJobSpec], ...] = (
    *_COMMON,
    ("sync.algorithm", lambda s: s.sync.algorithm != "AllReduce", "use AllReduce"),
    ("sync.interval", lambda s: s.sync.interval != 1, "use 1"),
    ("sync.compression", lambda s: s.sync.compression != "None", "use None"),
    ("training.precision", lambda s: s.training.precision != "FP32", "use FP32"),
    ("training.maxBatchSize", lambda s: s.training.max_batch_size is not None, "leave it out"),
    ("scaling.policy", lambda s: s.scaling.policy == "Goodput", "use Throughput or Manual"),
    ("scaling.weight", lambda s: s.scaling.weight != 1, "use 1"),
    ("candidates", lambda s: bool(s.candidates), "leave it out"),
    ("selection", lambda s: bool(s.selection), "leave it out"),
    ("workers.allowed", lambda s: bool(s.workers.allowed), "use min and max"),
    (
        "workers.gpus",
        lambda s: s.workers.gpus > 1,
        "a worker trains on one GPU: use 1, and more workers",
    ),
)

_FEDERATED: tuple[_Rule[FederatedJobSpec], ...] = (
    *_COMMON,
    ("strategy.name", lambda s: s.strategy.name not in STRATEGIES, f"use {_one_of(STRATEGIES)}"),
    ("update.compression", lambda s: s.update.compression != "None", "use None"),
    ("update.weights", lambda s: s.update.weights != "Samples", "use Samples"),
    ("update.maxWeight", lambda s: s.update.max_weight is not None, "leave it out"),
    ("update.maxNorm", lambda s: s.update.max_norm is not None, "leave it out"),
    ("update.clipNorm", lambda s: s.update.clip_norm is not None, "leave it out"),
    ("update.buffers", lambda s: s.update.buffers != "Average", "use Average"),
    ("rounds.sampling", lambda s: s.rounds.sampling != "Uniform", "use Uniform"),
    ("privacy.secureAggregation", lambda s: _privacy(s).secure_aggregation is not None, "use null"),
    (
        "privacy.differentialPrivacy",
        lambda s: _privacy(s).differential_privacy is not None,
        "use null",
    ),
    (
        "parties.gpus",
        lambda s: any(party.gpus > 1 for party in s.parties),
        "a party trains on one GPU: use 1, or 0 for the CPU",
    ),
    (
        "parties.external",
        lambda s: len(s.local_parties) < s.rounds.min_parties,
        "external parties cannot enroll yet: add parties of this cluster, or lower "
        "rounds.minParties to their number",
    ),
)

ARGUMENT_BYTES = 96 * 1024
"""Limit of all `args` together, as JSON.

A pod's configuration is one environment variable, and Linux limits a variable to 128 KiB. The rest
of it grows only with the number of parties, at most 256.
"""


ARGUMENT_LEVELS = 100
"""Limit of lists and maps within each other in `args`; decoders stop at some hundreds."""

MAX_SPEC_BYTES = 256 * 1024
"""Limit of a whole spec, as JSON: of a larger one nothing is kept.

The largest federation is half of that: 256 parties with their `args`, resources and tolerations.
"""


class Rejection(NamedTuple):
    """Why a job is not started: reason and message of the condition `Accepted`."""

    reason: str
    message: str


def validate(spec: JobSpec) -> Rejection | None:
    """Return why a job with this spec cannot be started, or None if it can."""
    if message := unsupported_fields(spec):
        return Rejection("NotSupportedYet", message)
    if message := _oversized_arguments(spec):
        return Rejection("TooLarge", message)
    if message := _forbidden_mounts(spec):
        return Rejection("Forbidden", message)
    return None


def _forbidden_mounts(spec: JobSpec) -> str:
    match spec:
        case DistributedJobSpec():
            return forbidden_mounts(spec, spec.template, "workers.template")
        case FederatedJobSpec():
            return forbidden_mounts(spec, spec.template, "template")
    return ""


def oversized_spec(spec_bytes: int) -> Rejection | None:
    """Return why a spec of so many bytes is not even kept, or None if it is."""
    if spec_bytes <= MAX_SPEC_BYTES:
        return None
    message = (
        f"The spec of this job takes {spec_bytes} bytes as JSON; the operator reads specs of at "
        f"most {MAX_SPEC_BYTES}. Keep data in a file of the image or of a volume, and pass its "
        "path to the Task."
    )
    return Rejection("TooLarge", message)


def deep_arguments(spec: JobSpec) -> Rejection | None:
    """Return why arguments are nested deeper than programs follow, or None if they are not."""
    is_deep = any(_is_deeper(part, ARGUMENT_LEVELS) for _, part in _parts(spec))
    return too_deep() if is_deep else None


def too_deep() -> Rejection:
    """Why a job is rejected whose arguments are nested too deep."""
    message = (
        f"Arguments of this job are nested more than {ARGUMENT_LEVELS} levels deep; flatten them, "
        "or keep them in a file of the image or of a volume, and pass its path to the Task."
    )
    return Rejection("TooLarge", message)


def _is_deeper(part: WithArguments, levels: int) -> bool:
    encoded = bytes(part.args)
    if encoded.count(b"[") + encoded.count(b"{") <= levels:
        return False
    try:
        level: list[Any] = [part.arguments()]
    except RecursionError:
        return True
    for _ in range(levels):
        level = [
            child
            for value in level
            if isinstance(value, dict | list)
            for child in (value.values() if isinstance(value, dict) else value)
        ]
    return any(isinstance(value, dict | list) for value in level)


def _oversized_arguments(spec: JobSpec) -> str:
    """Return a message if the arguments do not fit into a pod's environment, else an empty one."""
    parts = dict(_parts(spec))
    if sum(len(part.args) for part in parts.values()) <= ARGUMENT_BYTES:
        return ""
    # The API server writes some characters as six.
    decoded = {field: part.arguments() for field, part in parts.items()}
    sizes = {field: len(msgspec.json.encode(args)) for field, args in decoded.items() if args}
    total = sum(sizes.values())
    if total <= ARGUMENT_BYTES:
        return ""
    largest = max(sizes, key=lambda field: sizes[field])
    return (
        f"The arguments of this job take {total} bytes as JSON, {sizes[largest]} of them in "
        f"spec.{largest}; a pod's configuration has room for {ARGUMENT_BYTES}. Keep data in a file "
        "of the image or of a volume, and pass its path to the Task."
    )


def _parts(spec: JobSpec) -> Iterator[tuple[str, WithArguments]]:
    """The parts with arguments, by the names of the fields."""
    yield "task.args", spec.task
    if isinstance(spec, FederatedJobSpec):
        yield "strategy.args", spec.strategy
        if spec.training.optimizer is not None:
            yield "training.optimizer.args", spec.training.optimizer
        for party in spec.parties:
            yield f"parties[{party.name}].args", party


def unsupported_fields(spec: JobSpec) -> str:
    """Return a message that names every unsupported field, or an empty string if there is none."""
    found: list[str] = []
    if isinstance(spec, DistributedJobSpec):
        found = [f"spec.{field} ({hint})" for field, is_set, hint in _DISTRIBUTED if is_set(spec)]
    elif isinstance(spec, FederatedJobSpec):
        found = [f"spec.{field} ({hint})" for field, is_set, hint in _FEDERATED if is_set(spec)]
    return f"Not supported in this version: {', '.join(found)}." if found else ""
