"""Why one job should have a size, before the GPUs of the cluster are counted."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundsChanged:
    """The present size is out of bounds."""

    min_workers: int
    max_workers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicasRequested:
    """`workers.replicas` decides."""

    replicas: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyUnavailable:
    """This version does not have the policy."""

    policy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkersUnplaceable:
    """Some of the workers have no node, and none could take them."""

    unplaceable: int
    workers: int
    give_up_at: datetime | None
    """None when they are given up now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkersNotPlaced:
    """Some of the workers were not bound to a node in time, though the nodes seem to fit."""

    not_placed: int
    workers: int
    message: str
    """Why, in the words of kube-scheduler or the API server; empty if neither said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeNotPlaced:
    """A larger size was not placed before, and is not asked for again yet."""

    pending: Basis
    workers: int
    """The largest size that is asked for."""
    retry_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkersUnfit:
    """Some of the workers cannot take part, and the others train without them."""

    indices: tuple[int, ...]
    workers: int
    message: str
    """Why the first of them cannot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TriedAgainLater:
    """Workers are left out, and the job does not grow before they are tried again."""

    pending: Basis
    retry_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class NodesAwaited:
    """An autoscaler has yet to add nodes to a pool."""

    pool: str
    unbound: int
    workers: int
    give_up_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class NodesNotAdded:
    """A pool added no nodes in time."""

    pool: str
    unbound: int
    workers: int
    retry_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkersJoining:
    """Not all workers train yet."""

    workers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsStale:
    """The coordinator's metrics are too old to decide on."""

    age: timedelta | None
    """None before the first time that they are read."""
    limit: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class TooFewSteps:
    """The present size is not measured yet."""

    workers: int
    min_steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AtMaximum:
    """The job has as many workers as it may have."""

    workers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """The throughput of two sizes."""

    before: int
    after: int
    before_speed: float
    """Samples per second with `before` workers."""
    after_speed: float
    """Samples per second with `after` workers."""
    min_gain: float
    """`scaling.minGain`, which `after_speed` ÷ `before_speed` is compared with."""
    before_error: float | None = None
    """Standard error of `before_speed`; None where it was not measured."""
    after_error: float | None = None
    interval: tuple[float, float] | None = None
    """Where `after_speed` ÷ `before_speed` lies with `spread.CONFIDENCE`; None if it did not
    matter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GrowthPaid:
    """The growth to the present size paid."""

    gain: Gain


@dataclass(frozen=True, slots=True, kw_only=True)
class GrowthDidNotPay:
    """The growth to the present size did not pay."""

    gain: Gain


@dataclass(frozen=True, slots=True, kw_only=True)
class GrowthUncertain:
    """Whether the growth to the present size pays is not clear yet."""

    gain: Gain
    until: datetime
    """When the means decide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GrowthNoLongerPays:
    """The growth to the present size paid at first, and clearly does not now."""

    gain: Gain


@dataclass(frozen=True, slots=True, kw_only=True)
class LossUncertain:
    """The growth to the present size paid at first; whether it still does is not clear."""

    gain: Gain


@dataclass(frozen=True, slots=True, kw_only=True)
class LargerSizePays:
    """A larger size was measured before, and pays."""

    gain: Gain


@dataclass(frozen=True, slots=True, kw_only=True)
class LargerSizeDidNotPay:
    """A larger size was measured before, and is not tried again yet."""

    gain: Gain
    retry_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class GrowthBelowExpectation:
    """The growth to the present size paid, but half of it might have done as well."""

    before: int
    after: int
    measured_speedup: float
    expected_speedup: float
    middle: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NoOtherSizeKnown:
    """Only the present size is known to pay."""

    workers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GainTooSmall:
    """The next size is not expected to pay."""

    workers: int
    expected_speedup: float
    min_gain: float


PresentSizePays = AtMaximum | GrowthPaid | LargerSizePays | LargerSizeDidNotPay | GainTooSmall
"""What is said only of a job whose present size was found to pay."""
Comparison = (
    GrowthPaid
    | GrowthDidNotPay
    | GrowthUncertain
    | GrowthNoLongerPays
    | LossUncertain
    | LargerSizePays
    | LargerSizeDidNotPay
)
"""The reasons that compare two measured sizes."""
ThroughputBasis = (
    WorkersJoining
    | MetricsStale
    | TooFewSteps
    | AtMaximum
    | GrowthBelowExpectation
    | NoOtherSizeKnown
    | GainTooSmall
    | Comparison
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CoolingDown:
    """A change waits for the cooldown after the one before."""

    pending: Basis
    until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeLimitReached:
    """A change waits because the job has changed too often."""

    pending: Basis
    changes: int
    """Changes within the last hour."""
    limit: int
    """`scaling.maxChangesPerHour`."""


Basis = (
    BoundsChanged
    | ReplicasRequested
    | PolicyUnavailable
    | WorkersUnplaceable
    | WorkersNotPlaced
    | SizeNotPlaced
    | WorkersUnfit
    | TriedAgainLater
    | NodesAwaited
    | NodesNotAdded
    | CoolingDown
    | ChangeLimitReached
    | ThroughputBasis
)
