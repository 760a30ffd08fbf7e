"""The sentences that people read about decisions, made from the facts behind them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, assert_never

from trainyard.api.resources import PODS, format_amount
from trainyard.api.status import Provisioning
from trainyard.scheduling.capacity import Availability, Shortfall
from trainyard.scheduling.explain_size import explain_size
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
from trainyard.scheduling.phrases import clock_time, counted
from trainyard.scheduling.shapes import PodShape

_MAX_NAMES: Final = 5
"""Parties that a sentence names."""


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
            return f"admitted with {counted(facts.parties, 'party')}: {_gpus(facts.gpus)}"
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


# --- Waiting and starting ---


def _workers_admitted(facts: WorkersAdmitted) -> str:
    workers = facts.request.workers
    short = f", of {facts.desired} wanted" if workers < facts.desired else ""
    return f"admitted with {counted(workers, 'worker')} ({_request(facts.request)}){short}"


def _workers_waiting(facts: WorkersWaiting) -> str:
    request = _request(facts.minimum, facts.availability.shortfall)
    available = _availability(facts.minimum.shape, facts.availability)
    sentence = f"needs {request} (min); {available}"
    if unready := facts.unready_nodes:
        verb = "is" if unready == 1 else "are"
        sentence += f"; {counted(unready, 'matching node')} {verb} not ready"
    sentence += _pool_backoff(facts.provisioning)
    return sentence + _in_the_way(facts.in_the_way) + _refused_class(facts.refused_class)


def _workers_provisioning(facts: WorkersProvisioning) -> str:
    request = f"needs {_request(facts.minimum)} (min)"
    nodes = f"pool {facts.pool} has to add {counted(facts.nodes, 'node')}"
    return f"{request}; {nodes}, awaited until {clock_time(facts.give_up_at)}"


def _pool_backoff(provisioning: Provisioning | None) -> str:
    """`; pool a100 added no node in time and is asked again at 12:05:00`."""
    if provisioning is None or provisioning.retry_time is None:
        return ""
    again = f"is asked again at {clock_time(provisioning.retry_time)}"
    return f"; pool {provisioning.pool} added no node in time and {again}"


def _workers_do_not_fit(facts: WorkersDoNotFit) -> str:
    matching = facts.matching_nodes
    verb = "matches" if matching == 1 else "match"
    sentence = f"needs {_request(facts.minimum)} (min); {counted(matching, 'node')} {verb}"
    sentence += " by size, labels and taints"
    if matching:
        sentence += f", with capacity for {counted(facts.capacity, 'worker')} when empty"
    return sentence + _pool_backoff(facts.provisioning)


def _start_timed_out(facts: StartTimedOut) -> str:
    did_not = "run" if facts.minimum is None else f"get {_request(facts.minimum)} running"
    at = clock_time(facts.requeue_at)
    return f"its last start did not {did_not} in time; it queues again at {at}"


def _parties_assigned(facts: PartiesAssigned) -> str:
    verb = "has" if facts.parties == 1 else "have"
    assigned = f"{counted(facts.parties, 'party')} {verb} room"
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
    queue = f", {counted(ahead, 'job')} before it" if ahead else ""
    nodes = f"{available.nodes} of {counted(waiting.matching_nodes, 'matching node')}"
    free = "free" if waiting.shape.accelerators else "fit"
    short = _shortfall(waiting.shape, available)
    pod = _pod(waiting.shape, is_whole=available.shortfall is not None)
    return (
        f"party {waiting.party} waits for {pod} ({available.free} {free} on {nodes}{short}{queue})"
    )


# --- The size of admitted jobs ---


def _size_kept(facts: SizeKept) -> str:
    sentence = f"stays at {facts.workers}: {explain_size(facts.basis)}"
    if (short := facts.shortage) is None:
        return sentence
    needs = f"to grow it needs {_request(short.missing, short.availability.shortfall)}"
    return f"{sentence}; {needs}; {_availability(short.missing.shape, short.availability)}"


def _size_changed(facts: SizeChanged) -> str:
    if not facts.after:
        return f"{explain_size(facts.basis)}: releasing {counted(facts.before, 'worker')}"
    verb = "growing" if facts.after > facts.before else "shrinking"
    would = "would be " if facts.is_recommendation else ""
    fit = f" and {_request(facts.added)} fit" if facts.added else ""
    sentence = f"{explain_size(facts.basis)}{fit}: {would}{verb} {facts.before}→{facts.after}"
    if facts.expected_speedup is not None:
        sentence += f", expected {facts.expected_speedup:.2f}×"
    if (short := facts.shortage) is not None:
        sentence += f"; {_request(short.missing)} short of {short.desired}"
        sentence += f", {_availability(short.missing.shape, short.availability)}"
    return sentence


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
    queue = f"; {counted(ahead, 'job')} before it" if ahead else ""
    free = "free" if shape.accelerators else "fit"
    on_nodes = f"{available.free} {free} on {counted(available.nodes, 'node')}"
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


def _gpus(by_resource: Sequence[tuple[str, int]]) -> str:
    return ", ".join(f"{count} {name}" for name, count in by_resource) or "no GPU"
