"""The sentences that people read about decisions, made from the facts behind them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final, assert_never

from trainyard.api.resources import PODS, format_amount
from trainyard.api.status import Provisioning
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
    WorkersJoining,
    WorkersNotPlaced,
    WorkersUnplaceable,
)
from trainyard.scheduling.capacity import Availability, Shortfall
from trainyard.scheduling.facts import (
    Facts,
    PartiesAdmitted,
    PartiesAssigned,
    PartiesWaiting,
    PodsRequest,
    SizeChanged,
    SizeKept,
    StartTimedOut,
    WaitingParty,
    WorkersAdmitted,
    WorkersDoNotFit,
    WorkersProvisioning,
    WorkersWaiting,
)
from trainyard.scheduling.shapes import PodShape
from trainyard.scheduling.spread import CONFIDENCE
from trainyard_trainer.contract.text import printable

_MAX_NAMES: Final = 5
"""Parties that a sentence names."""
MAX_QUOTE: Final = 600
"""Characters quoted of kube-scheduler or the API server."""


def explain(facts: Facts) -> str:
    """What was decided and why, with the figures behind it."""
    match facts:
        case WorkersAdmitted():
            return _workers_admitted(facts)
        case WorkersProvisioning():
            return _workers_provisioning(facts)
        case WorkersWaiting():
            return _workers_waiting(facts)
        case WorkersDoNotFit():
            return _workers_do_not_fit(facts)
        case StartTimedOut():
            return _start_timed_out(facts)
        case PartiesAdmitted():
            return f"admitted with {_count(facts.parties, 'party')}: {_gpus(facts.gpus)}"
        case PartiesWaiting():
            together = f"all {facts.parties} parties start together; {_parties(facts.waiting)}"
            return together + _in_the_way(facts.in_the_way) + _refused_class(facts.refused_class)
        case PartiesAssigned():
            return _parties_assigned(facts)
        case SizeKept():
            return _size_kept(facts)
        case SizeChanged():
            return _size_changed(facts)
        case _:
            assert_never(facts)


def explain_basis(basis: Basis) -> str:
    """Why a job should have a size: a clause that a sentence can go on from."""
    match basis:
        case BoundsChanged():
            return f"min is {basis.min_workers} and max {basis.max_workers}"
        case ReplicasRequested():
            return f"workers.replicas asks for {basis.replicas}"
        case PolicyUnavailable():
            return f"policy {basis.policy} is not available in this version"
        case WorkersUnplaceable():
            return _workers_unplaceable(basis)
        case WorkersNotPlaced():
            return _workers_not_placed(basis)
        case SizeNotPlaced():
            not_before = f"more than {basis.workers} were not placed, and are not asked for"
            pending = explain_basis(basis.pending)
            return f"{pending}; {not_before} again before {_time(basis.retry_at)}"
        case NodesAwaited():
            until = _time(basis.give_up_at)
            return f"nodes of pool {basis.pool} are awaited for {_unbound(basis)} until {until}"
        case NodesNotAdded():
            no_nodes = f"no node of pool {basis.pool} came in time for {_unbound(basis)}"
            return f"{no_nodes}; it is asked again at {_time(basis.retry_at)}"
        case CoolingDown():
            return f"{explain_basis(basis.pending)}; cooling down until {_time(basis.until)}"
        case ChangeLimitReached():
            used = f"{basis.changes} of {basis.limit} changes per hour used"
            return f"{explain_basis(basis.pending)}; {used}"
        case _:
            return _measured(basis)


# --- Waiting and starting ---


def _workers_admitted(facts: WorkersAdmitted) -> str:
    workers = facts.request.workers
    short = f", of {facts.desired} wanted" if workers < facts.desired else ""
    return f"admitted with {_count(workers, 'worker')} ({_request(facts.request)}){short}"


def _workers_waiting(facts: WorkersWaiting) -> str:
    request = _request(facts.minimum, facts.availability.shortfall)
    available = _availability(facts.minimum.shape, facts.availability)
    sentence = f"needs {request} (min); {available}"
    if unready := facts.unready_nodes:
        verb = "is" if unready == 1 else "are"
        sentence += f"; {_count(unready, 'matching node')} {verb} not ready"
    sentence += _pool_backoff(facts.provisioning)
    return sentence + _in_the_way(facts.in_the_way) + _refused_class(facts.refused_class)


def _workers_provisioning(facts: WorkersProvisioning) -> str:
    request = f"needs {_request(facts.minimum)} (min)"
    nodes = f"pool {facts.pool} has to add {_count(facts.nodes, 'node')}"
    return f"{request}; {nodes}, awaited until {_time(facts.give_up_at)}"


def _pool_backoff(provisioning: Provisioning | None) -> str:
    """`; pool a100 added no node in time and is asked again at 12:05:00`."""
    if provisioning is None or provisioning.retry_time is None:
        return ""
    again = f"is asked again at {_time(provisioning.retry_time)}"
    return f"; pool {provisioning.pool} added no node in time and {again}"


def _workers_do_not_fit(facts: WorkersDoNotFit) -> str:
    matching = facts.matching_nodes
    verb = "matches" if matching == 1 else "match"
    sentence = f"needs {_request(facts.minimum)} (min); {_count(matching, 'node')} {verb}"
    sentence += " by size, labels and taints"
    if matching:
        sentence += f", with capacity for {_count(facts.capacity, 'worker')} when empty"
    return sentence + _pool_backoff(facts.provisioning)


def _start_timed_out(facts: StartTimedOut) -> str:
    did_not = "run" if facts.minimum is None else f"get {_request(facts.minimum)} running"
    at = _time(facts.requeue_at)
    return f"its last start did not {did_not} in time; it queues again at {at}"


def _parties_assigned(facts: PartiesAssigned) -> str:
    verb = "has" if facts.parties == 1 else "have"
    assigned = f"{_count(facts.parties, 'party')} {verb} room"
    if facts.waiting:
        return f"{assigned}; {_parties(facts.waiting)}"
    if facts.added:
        return f"{assigned}; added {_names(facts.added)}"
    return assigned


def _parties(waiting: Sequence[WaitingParty]) -> str:
    clauses = [_party(each) for each in waiting[:_MAX_NAMES]]
    if len(waiting) > _MAX_NAMES:
        clauses.append(f"and {len(waiting) - _MAX_NAMES} more")
    return "; ".join(clauses)


def _names(parties: Sequence[str]) -> str:
    more = len(parties) - _MAX_NAMES
    return ", ".join(parties[:_MAX_NAMES]) + (f" and {more} more" if more > 0 else "")


def _party(waiting: WaitingParty) -> str:
    available = waiting.availability
    ahead = available.jobs_ahead
    queue = f", {_count(ahead, 'job')} before it" if ahead else ""
    nodes = f"{available.nodes} of {_count(waiting.matching_nodes, 'matching node')}"
    free = "free" if waiting.shape.accelerators else "fit"
    short = _shortfall(waiting.shape, available)
    pod = _pod(waiting.shape, is_whole=available.shortfall is not None)
    return (
        f"party {waiting.party} waits for {pod} ({available.free} {free} on {nodes}{short}{queue})"
    )


# --- The size of admitted jobs ---


def _size_kept(facts: SizeKept) -> str:
    sentence = f"stays at {facts.workers}: {explain_basis(facts.basis)}"
    if (short := facts.shortage) is None:
        return sentence
    needs = f"to grow it needs {_request(short.missing, short.availability.shortfall)}"
    return f"{sentence}; {needs}; {_availability(short.missing.shape, short.availability)}"


def _size_changed(facts: SizeChanged) -> str:
    if not facts.after:
        return f"{explain_basis(facts.basis)}: releasing {_count(facts.before, 'worker')}"
    verb = "growing" if facts.after > facts.before else "shrinking"
    would = "would be " if facts.is_recommendation else ""
    fit = f" and {_request(facts.added)} fit" if facts.added else ""
    sentence = f"{explain_basis(facts.basis)}{fit}: {would}{verb} {facts.before}→{facts.after}"
    if facts.expected_speedup is not None:
        sentence += f", expected {facts.expected_speedup:.2f}×"
    if (short := facts.shortage) is not None:
        sentence += f"; {_request(short.missing)} short of {short.desired}"
        sentence += f", {_availability(short.missing.shape, short.availability)}"
    return sentence


def _workers_unplaceable(basis: WorkersUnplaceable) -> str:
    workers = _count(basis.workers, "worker")
    until = "" if basis.give_up_at is None else f", giving up at {_time(basis.give_up_at)}"
    return f"{basis.unplaceable} of {workers} can no longer get GPUs{until}"


def _workers_not_placed(basis: WorkersNotPlaced) -> str:
    workers = _count(basis.workers, "worker")
    message = (
        printable(basis.message)[:MAX_QUOTE].rstrip(".")
        or "neither kube-scheduler nor the API server says why"
    )
    return f"{basis.not_placed} of {workers} got no node in time ({message})"


def _unbound(basis: NodesAwaited | NodesNotAdded) -> str:
    return f"{basis.unbound} of {_count(basis.workers, 'worker')}"


def _measured(basis: ThroughputBasis) -> str:
    match basis:
        case WorkersJoining():
            return f"not all {basis.workers} workers train together yet"
        case MetricsStale():
            return _metrics_stale(basis)
        case TooFewSteps():
            workers = _count(basis.workers, "worker")
            return f"fewer than {basis.min_steps} steps measured with {workers}"
        case AtMaximum():
            return f"{_count(basis.workers, 'worker')} is the most it may have"
        case GrowthBelowExpectation():
            brought = f"{basis.before}→{basis.after} brought {basis.measured_speedup:.2f}×"
            expected = f"where {basis.expected_speedup:.2f}× was expected"
            return f"{brought} {expected}, so {basis.middle} may do as well"
        case NoOtherSizeKnown():
            return f"no size but {_count(basis.workers, 'worker')} is known to pay"
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
            return f"{change} brings {gain}; not clear yet, measured until {_time(until)}"
        case GrowthNoLongerPays():
            return f"{change} paid at first and clearly no longer does: {gain}"
        case LossUncertain():
            return f"{change} paid at first and now brings {gain}; noise may explain the difference"
        case LargerSizePays():
            return f"{basis.gain.after} workers brought {gain}"
        case LargerSizeDidNotPay():
            return f"{change} brought {gain}; not tried again before {_time(basis.retry_at)}"
        case _:
            assert_never(basis)


def _metrics_stale(basis: MetricsStale) -> str:
    if basis.age is None:
        return "the coordinator's metrics have not been read yet"
    age, limit = basis.age.total_seconds(), basis.limit.total_seconds()
    return f"the metrics are {age:.0f} s old, older than {limit:.0f} s"


# --- Phrases ---


def _request(request: PodsRequest, shortfall: Shortfall | None = None) -> str:
    """`4 × 2 nvidia.com/gpu with selector a=b`, `4 × (2 nvidia.com/gpu, 8 cpu)`."""
    return f"{request.workers} × {_pod(request.shape, is_whole=shortfall is not None)}"


def _pod(shape: PodShape, *, is_whole: bool = False) -> str:
    """What a pod requests: its accelerators; without any, or as a whole, everything."""
    amounts = shape.requests if is_whole or not shape.accelerators else shape.accelerators
    clauses = [format_amount(name, count) for name, count in amounts if name != PODS]
    text = ", ".join(clauses) or "no GPU"
    selector = ",".join(f"{key}={value}" for key, value in shape.selector)
    text = f"({text})" if len(clauses) > 1 else text
    return text + (f" with selector {selector}" if selector else "")


def _availability(shape: PodShape, available: Availability) -> str:
    """`3 free on 2 nodes; 1 job before it`, `12 fit on 3 nodes`."""
    ahead = available.jobs_ahead
    queue = f"; {_count(ahead, 'job')} before it" if ahead else ""
    free = "free" if shape.accelerators else "fit"
    on_nodes = f"{available.free} {free} on {_count(available.nodes, 'node')}"
    return f"{on_nodes}{_shortfall(shape, available)}{queue}"


def _shortfall(shape: PodShape, available: Availability) -> str:
    """`, but node a has 1 cpu free beside 3 nvidia.com/gpu`."""
    if (short := available.shortfall) is None:
        return ""
    clause = f", but node {short.node} has {format_amount(short.resource, short.free)} free"
    if not shape.accelerators:
        return clause
    return f"{clause} beside {short.accelerators} {shape.accelerators[0][0]}"


def _in_the_way(pods: Sequence[str]) -> str:
    """`; pods of no job in the way: a/b, c/d`."""
    return f"; pods of no job in the way: {', '.join(pods)}" if pods else ""


def _refused_class(name: str) -> str:
    """`; priority class urgent does not count, as its namespace may not use it`."""
    return f"; priority class {name} does not count: its namespace may not use it" if name else ""


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


def _gpus(by_resource: Sequence[tuple[str, int]]) -> str:
    return ", ".join(f"{count} {name}" for name, count in by_resource) or "no GPU"


def _count(number: int, noun: str) -> str:
    """A number with its noun: `1 job`, `2 jobs`, `3 parties`."""
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"


def _time(moment: datetime) -> str:
    return f"{moment:%H:%M:%S}"
