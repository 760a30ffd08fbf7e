"""The Events of a job: what changed between two statuses, with the messages of its conditions.

Few, because the API server is shared: only those that people wait for. Names are made from the
content, so that a repeated reconcile repeats no Event.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from trainyard.api import names
from trainyard.api.conditions import Condition
from trainyard.api.federation import FederatedJobStatus, PartyStatus
from trainyard.api.jobs import Assignment, Job, Status, format_time
from trainyard.api.pods import Pod
from trainyard.api.status import DistributedJobStatus, ScalingStatus
from trainyard.lifecycle.divergence import TRAINING_DIVERGED
from trainyard.lifecycle.messages import party_left_out
from trainyard.lifecycle.state_loss import STATE_LOST, stored_state_lost
from trainyard.scheduling.decision import Decision
from trainyard_trainer.contract.text import printable

EventType = Literal["Normal", "Warning"]

_CONDITION_EVENTS: Final[Mapping[tuple[str, str], EventType]] = {
    ("Accepted", "False"): "Warning",
    ("Admitted", "False"): "Normal",
    ("Suspended", "True"): "Normal",
    ("Degraded", "True"): "Warning",
    ("Diverged", "True"): "Warning",
    ("Complete", "True"): "Normal",
    ("Failed", "True"): "Warning",
}
"""Changes of conditions that become Events, and the type of each Event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventSpec:
    """What differs from one Event of a job to the next."""

    type: EventType
    reason: str
    message: str


def events_for(before: Status, after: Status) -> Iterator[EventSpec]:
    """The Events of a changed status: transitions, failures, and what a decision brought."""
    old = {c.type: c for c in before.conditions}
    for condition in after.conditions:
        yield from _condition_events(old.get(condition.type), condition)
    if lost := stored_state_lost(before, after):
        yield EventSpec(type="Warning", reason=STATE_LOST, message=lost)
    known = {f.pod_uid for f in before.failures}
    for failure in after.failures:
        if failure.pod_uid not in known:
            yield EventSpec(type="Warning", reason="PodFailed", message=failure.message)
    match before, after:
        case DistributedJobStatus(), DistributedJobStatus():
            empty = ScalingStatus()
            yield from _speedup_events(before.scaling or empty, after.scaling or empty)
        case FederatedJobStatus(), FederatedJobStatus():
            yield from _refusal_events(before.parties, after.parties)
            yield from _left_out_events(before.parties, after.parties)


def decision_event(before: Assignment, decision: Decision) -> EventSpec | None:
    """The Event of a decision that changes a running job's workers, or recommends to.

    An admission has none: its pods show it.
    """
    if before.desired and decision.workers not in (0, before.desired):
        return EventSpec(type="Normal", reason=decision.reason, message=decision.message)
    is_recommendation = decision.workers and decision.recommended != decision.workers
    if is_recommendation and decision.recommended != before.recommended:
        return EventSpec(type="Normal", reason="Recommended", message=decision.message)
    return None


def _condition_events(old: Condition | None, new: Condition) -> Iterator[EventSpec]:
    event_type = _CONDITION_EVENTS.get((new.type, new.status))
    if new.reason in (STATE_LOST, TRAINING_DIVERGED):
        event_type = "Warning"
    is_same = old is not None and (old.status, old.reason) == (new.status, new.reason)
    if event_type and not is_same and new.message:
        yield EventSpec(type=event_type, reason=new.reason, message=new.message)


def _refusal_events(old: list[PartyStatus], new: list[PartyStatus]) -> Iterator[EventSpec]:
    """Updates that were refused: whose they are, and what is wrong with them."""
    known = {party.name: party.refused for party in old}
    for party in new:
        more = party.refused - known.get(party.name, 0)
        if more > 0:
            updates = "an update" if more == 1 else f"{more} updates"
            message = (
                f"The aggregator refused {updates} of party {party.name} ({party.last_refusal}), "
                f"{party.refused} in all; the round goes on without it."
            )
            yield EventSpec(type="Warning", reason="UpdateRefused", message=message)


def _left_out_events(old: list[PartyStatus], new: list[PartyStatus]) -> Iterator[EventSpec]:
    """Parties that are left out from now on; trying them again in vain repeats no Event."""
    known = {party.name for party in old if party.failure and party.failure.left_out}
    for party in new:
        failure = party.failure
        if failure and failure.left_out and party.name not in known:
            retry_at = format_time(failure.retry_time or failure.failure_time)
            message = party_left_out(party.name, retry_at, failure.message)
            yield EventSpec(type="Warning", reason="PartyLeftOut", message=message)


def _speedup_events(old: ScalingStatus, new: ScalingStatus) -> Iterator[EventSpec]:
    if not new.history or not old.history:
        return
    last, before = new.history[-1], old.history[-1]
    is_measured = last.measured_speedup is not None and before.measured_speedup is None
    if is_measured and last.from_ and last.decision_time == before.decision_time:
        expected = f", expected {last.expected_speedup:g}×" if last.expected_speedup else ""
        message = (
            f"{last.from_} → {last.to} workers: {last.measured_speedup:g}× the samples per "
            f"second{expected}."
        )
        yield EventSpec(type="Normal", reason="SpeedupMeasured", message=message)


def event(job: Job, spec: EventSpec, now: str, reporter: str) -> dict[str, Any]:
    """The manifest of a job's Event; equal specs in the same second have the same name."""
    involved = {
        "apiVersion": names.API_VERSION,
        "kind": job.key.kind,
        "name": job.key.name,
        "namespace": job.key.namespace,
        "uid": job.uid,
    }
    return _event(involved, spec, now, reporter, distinct=now)


def pod_event(pod: Pod, spec: EventSpec, now: str, reporter: str) -> dict[str, Any]:
    """The manifest of a pod's Event, which has the same name whenever it is recorded."""
    involved = {
        "apiVersion": "v1",
        "kind": "Pod",
        "name": pod.name,
        "namespace": pod.namespace,
        "uid": pod.uid,
    }
    return _event(involved, spec, now, reporter, distinct="")


def _event(
    involved: Mapping[str, str], spec: EventSpec, now: str, reporter: str, *, distinct: str
) -> dict[str, Any]:
    message = printable(spec.message)
    content = f"{involved['uid']}|{spec.reason}|{message}|{distinct}"
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": f"{involved['name']}.{digest}",
            "namespace": involved["namespace"],
        },
        "involvedObject": dict(involved),
        "type": spec.type,
        "reason": spec.reason,
        "message": message[:1024],
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
        "source": {"component": names.MANAGER},
        "reportingComponent": names.GROUP,
        "reportingInstance": reporter,
    }
