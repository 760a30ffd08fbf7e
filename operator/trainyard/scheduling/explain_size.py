"""Why a job should have a size, as clauses that people read."""

from __future__ import annotations

from typing import Final, assert_never

from trainyard.scheduling.basis import (
    AtMaximum,
    Basis,
    BoundsChanged,
    ChangeLimitReached,
    Comparison,
    CoolingDown,
    Gain,
    GainTooSmall,
    GrowthBelowExpectation,
    GrowthDidNotPay,
    GrowthNoLongerPays,
    GrowthPaid,
    GrowthUncertain,
    LargerSizeDidNotPay,
    LargerSizePays,
    LossUncertain,
    MetricsStale,
    NodesAwaited,
    NodesNotAdded,
    NoOtherSizeKnown,
    PolicyUnavailable,
    ReplicasRequested,
    SizeNotPlaced,
    ThroughputBasis,
    TooFewSteps,
    TriedAgainLater,
    WorkersJoining,
    WorkersNotPlaced,
    WorkersUnfit,
    WorkersUnplaceable,
)
from trainyard.scheduling.phrases import clock_time, counted
from trainyard.scheduling.spread import CONFIDENCE
from trainyard_trainer.contract.text import printable

MAX_QUOTE: Final = 600
"""Characters quoted of kube-scheduler or the API server."""


def explain_size(basis: Basis) -> str:
    """Why a job should have a size: a clause that a sentence can go on from."""
    match basis:
        case BoundsChanged():
            return f"min is {basis.min_workers} and max {basis.max_workers}"
        case ReplicasRequested():
            return f"workers.replicas asks for {basis.replicas}"
        case PolicyUnavailable():
            return f"policy {basis.policy} is not available in this version"
        case SizeNotPlaced():
            not_before = f"more than {basis.workers} were not placed, and are not asked for"
            pending = explain_size(basis.pending)
            return f"{pending}; {not_before} again before {clock_time(basis.retry_at)}"
        case TriedAgainLater():
            pending = explain_size(basis.pending)
            return f"{pending}; workers are left out until {clock_time(basis.retry_at)}"
        case NodesAwaited():
            until = clock_time(basis.give_up_at)
            return f"nodes of pool {basis.pool} are awaited for {_unbound(basis)} until {until}"
        case NodesNotAdded():
            no_nodes = f"no node of pool {basis.pool} came in time for {_unbound(basis)}"
            return f"{no_nodes}; it is asked again at {clock_time(basis.retry_at)}"
        case CoolingDown():
            return f"{explain_size(basis.pending)}; cooling down until {clock_time(basis.until)}"
        case ChangeLimitReached():
            used = f"{basis.changes} of {basis.limit} changes per hour used"
            return f"{explain_size(basis.pending)}; {used}"
        case WorkersUnplaceable() | WorkersNotPlaced() | WorkersUnfit():
            return _given_back(basis)
        case _:
            return _measured(basis)


def _given_back(basis: WorkersUnplaceable | WorkersNotPlaced | WorkersUnfit) -> str:
    match basis:
        case WorkersUnplaceable():
            return _workers_unplaceable(basis)
        case WorkersNotPlaced():
            return _workers_not_placed(basis)
        case WorkersUnfit():
            return _workers_unfit(basis)
        case _:
            assert_never(basis)


def _workers_unplaceable(basis: WorkersUnplaceable) -> str:
    workers = counted(basis.workers, "worker")
    until = "" if basis.give_up_at is None else f", giving up at {clock_time(basis.give_up_at)}"
    return f"{basis.unplaceable} of {workers} can no longer get GPUs{until}"


def _workers_not_placed(basis: WorkersNotPlaced) -> str:
    workers = counted(basis.workers, "worker")
    message = (
        printable(basis.message)[:MAX_QUOTE].rstrip(".")
        or "neither kube-scheduler nor the API server says why"
    )
    return f"{basis.not_placed} of {workers} got no node in time ({message})"


def _workers_unfit(basis: WorkersUnfit) -> str:
    indices = ", ".join(str(index) for index in basis.indices)
    noun = "worker" if len(basis.indices) == 1 else "workers"
    message = printable(basis.message)[:MAX_QUOTE].rstrip(".")
    return f"{noun} {indices} of {basis.workers} cannot take part ({message})"


def _unbound(basis: NodesAwaited | NodesNotAdded) -> str:
    return f"{basis.unbound} of {counted(basis.workers, 'worker')}"


def _measured(basis: ThroughputBasis) -> str:
    match basis:
        case WorkersJoining():
            return f"not all {basis.workers} workers train together yet"
        case MetricsStale():
            return _metrics_stale(basis)
        case TooFewSteps():
            workers = counted(basis.workers, "worker")
            return f"fewer than {basis.min_steps} steps measured with {workers}"
        case AtMaximum():
            return f"{counted(basis.workers, 'worker')} is the most it may have"
        case GrowthBelowExpectation():
            brought = f"{basis.before}→{basis.after} brought {basis.measured_speedup:.2f}×"
            expected = f"where {basis.expected_speedup:.2f}× was expected"
            return f"{brought} {expected}, so {basis.middle} may do as well"
        case NoOtherSizeKnown():
            return f"no size but {counted(basis.workers, 'worker')} is known to pay"
        case GainTooSmall():
            expected = f"{basis.workers} workers are expected to bring"
            return f"{expected} {basis.expected_speedup:.2f}×, minGain is {basis.min_gain:g}"
        case _:
            return _compared(basis)


def _compared(basis: Comparison) -> str:
    gain = _gain(basis.gain)
    change = f"{basis.gain.before}→{basis.gain.after}"
    match basis:
        case GrowthPaid():
            return f"{change} paid {gain}"
        case GrowthDidNotPay():
            return f"{change} did not pay: {gain}"
        case GrowthUncertain(until=until):
            return f"{change} brings {gain}; not clear yet, measured until {clock_time(until)}"
        case GrowthNoLongerPays():
            return f"{change} paid at first and clearly no longer does: {gain}"
        case LossUncertain():
            return f"{change} paid at first and now brings {gain}; noise may explain the difference"
        case LargerSizePays():
            return f"{basis.gain.after} workers brought {gain}"
        case LargerSizeDidNotPay():
            return f"{change} brought {gain}; not tried again before {clock_time(basis.retry_at)}"
        case _:
            assert_never(basis)


def _metrics_stale(basis: MetricsStale) -> str:
    if basis.age is None:
        return "the coordinator's metrics have not been read yet"
    age, limit = basis.age.total_seconds(), basis.limit.total_seconds()
    return f"the metrics are {age:.0f} s old, older than {limit:.0f} s"


def _gain(gain: Gain) -> str:
    """`1.83× (410→750 samples/s, minGain 1.05)`, with what is known of the noise.

    `0.96× (410 ± 4→394 ± 6 samples/s, 0.91× to 1.01× with 99 % confidence, minGain 1.05)`
    """
    before = _speed(gain.before_speed, gain.before_error)
    after = _speed(gain.after_speed, gain.after_error)
    interval = ""
    if gain.interval is not None:
        low, high = gain.interval
        interval = f"{low:.2f}× to {high:.2f}× with {100 * CONFIDENCE:g} % confidence, "
    ratio = gain.after_speed / gain.before_speed
    return f"{ratio:.2f}× ({before}→{after} samples/s, {interval}minGain {gain.min_gain:g})"


def _speed(samples_per_second: float, error: float | None) -> str:
    speed = _figure(samples_per_second)
    return speed if error is None else f"{speed} ± {_figure(error)}"


def _figure(samples_per_second: float) -> str:
    return f"{samples_per_second:.0f}" if samples_per_second >= 100 else f"{samples_per_second:.3g}"
