"""What this version can do: a field without its engine is refused by name, never ignored."""

from __future__ import annotations

from collections.abc import Callable

from trainyard.api.spec import DistributedJobSpec

_Rule = tuple[str, Callable[[DistributedJobSpec], bool], str]

_RULES: tuple[_Rule, ...] = (
    ("sync.algorithm", lambda s: s.sync.algorithm != "AllReduce", "use AllReduce"),
    ("sync.interval", lambda s: s.sync.interval != 1, "use 1"),
    ("sync.compression", lambda s: s.sync.compression != "None", "use None"),
    ("training.precision", lambda s: s.training.precision != "FP32", "use FP32"),
    ("training.maxBatchSize", lambda s: s.training.max_batch_size is not None, "leave it out"),
    ("scaling.policy", lambda s: s.scaling.policy == "Goodput", "use Throughput or Manual"),
    ("scaling.weight", lambda s: s.scaling.weight != 1, "use 1"),
    ("failure.hungAfterSteps", lambda s: s.failure.hung_after_steps != 10, "leave it out"),
    ("adjustments", lambda s: bool(s.adjustments), "leave it out"),
    ("candidates", lambda s: bool(s.candidates), "leave it out"),
    ("selection", lambda s: bool(s.selection), "leave it out"),
    ("workers.allowed", lambda s: bool(s.workers.allowed), "use min and max"),
    ("failure.retry", lambda s: s.failure.retry != "Step", "use Step"),
    ("failure.rules", lambda s: bool(s.failure.rules), "leave it out"),
    ("failure.replaceStragglers", lambda s: s.failure.replace_stragglers, "use false"),
)


def unsupported(spec: DistributedJobSpec) -> str:
    """A sentence naming every field that asks for more than this version has; empty if none."""
    asked = [f"spec.{field} ({mend})" for field, asks, mend in _RULES if asks(spec)]
    if not asked:
        return ""
    return f"This version of Trainyard does not support yet: {', '.join(asked)}."
