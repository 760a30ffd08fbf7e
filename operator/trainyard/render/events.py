"""The Events of a job: what changed between two statuses, in the words of its conditions.

Few, because the API server is shared: a start that goes well leaves none but the ones people wait
for. Names are made from the content, so that a repeated reconcile repeats no Event.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from trainyard.api import names
from trainyard.api.conditions import Condition
from trainyard.api.federation import FederatedJobStatus, PartyStatus
from trainyard.api.jobs import Assignment, Job, Status
from trainyard.api.status import DistributedJobStatus, ScalingStatus
from trainyard.scheduling.decision import Decision

_REPORTED_CONDITIONS = {
    ("Accepted", "False"): "Warning",
    ("Admitted", "False"): "Normal",
    ("Suspended", "True"): "Normal",
    ("Degraded", "True"): "Warning",
    ("Complete", "True"): "Normal",
    ("Failed", "True"): "Warning",
}
"""Condition changes that people want to hear of, and how."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventSpec:
    """One thing to tell."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


def events_for(before: Status, after: Status) -> Iterator[EventSpec]:
    """What a status change has to tell: transitions, failures, and what a decision brought."""
    old = {c.type: c for c in before.conditions}
    for condition in after.conditions:
        yield from _of_condition(old.get(condition.type), condition)
    known = {f.uid for f in before.failures}
    for failure in after.failures:
        if failure.uid not in known:
            yield EventSpec(type="Warning", reason="PodFailed", message=failure.message)
    if isinstance(before, DistributedJobStatus) and isinstance(after, DistributedJobStatus):
        yield from _of_scaling(before.scaling or ScalingStatus(), after.scaling or ScalingStatus())
    if isinstance(before, FederatedJobStatus) and isinstance(after, FederatedJobStatus):
        yield from _of_parties(before.parties, after.parties)


def decision_event(before: Assignment, decision: Decision) -> EventSpec | None:
    """What a decision has to tell: a change of a running job's workers, made or recommended.

    An admission is no news: the job's pods are seen to start.
    """
    if before.desired and decision.workers not in (0, before.desired):
        return EventSpec(type="Normal", reason=decision.reason, message=decision.message)
    is_advice = decision.workers and decision.recommended != decision.workers
    known = before.recommended if isinstance(before, ScalingStatus) else decision.recommended
    if is_advice and decision.recommended != known:
        return EventSpec(type="Normal", reason="Recommended", message=decision.message)
    return None


def _of_condition(old: Condition | None, new: Condition) -> Iterator[EventSpec]:
    kind = _REPORTED_CONDITIONS.get((new.type, new.status))
    is_news = old is None or old.status != new.status or old.reason != new.reason
    if kind is None or not is_news or not new.message:
        return
    yield EventSpec(
        type="Warning" if kind == "Warning" else "Normal", reason=new.reason, message=new.message
    )


def _of_parties(old: list[PartyStatus], new: list[PartyStatus]) -> Iterator[EventSpec]:
    """Updates that were refused: who sent them, and what is wrong with them."""
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


def _of_scaling(old: ScalingStatus, new: ScalingStatus) -> Iterator[EventSpec]:
    if not new.history or not old.history:
        return
    last, same = new.history[-1], old.history[-1]
    is_measured = last.measured_speedup is not None and same.measured_speedup is None
    if is_measured and last.from_ and last.decided_at == same.decided_at:
        expected = f", expected {last.expected_speedup:g}×" if last.expected_speedup else ""
        message = (
            f"{last.from_} → {last.to} workers: {last.measured_speedup:g}× the samples per "
            f"second{expected}."
        )
        yield EventSpec(type="Normal", reason="SpeedupMeasured", message=message)


def event(job: Job, notice: EventSpec, now: str, reporter: str) -> dict[str, Any]:
    """The Event's manifest; equal notices in the same second make the same name."""
    content = f"{job.uid}|{notice.reason}|{notice.message}|{now}"
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{job.key.name}.{digest}", "namespace": job.key.namespace},
        "involvedObject": {
            "apiVersion": names.API_VERSION,
            "kind": job.key.kind,
            "name": job.key.name,
            "namespace": job.key.namespace,
            "uid": job.uid,
        },
        "type": notice.type,
        "reason": notice.reason,
        "message": notice.message[:1024],
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
        "source": {"component": names.MANAGER},
        "reportingComponent": names.GROUP,
        "reportingInstance": reporter,
    }
