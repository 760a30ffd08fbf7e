"""What a job is assigned: the scheduler's decisions in `status.scaling` or `status.admission`."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, TypeVar

import msgspec

from trainyard.api.conditions import Type, is_true
from trainyard.api.durations import parse_duration
from trainyard.api.federation import AdmissionStatus
from trainyard.api.jobs import (
    Assignment,
    DistributedJob,
    FederatedJob,
    Job,
    assignment_of,
    whole_seconds,
)
from trainyard.api.pods import Pod
from trainyard.api.podset import group_pods
from trainyard.api.reasons import Reason
from trainyard.api.report import CoordinatorReport
from trainyard.api.spec import Scaling
from trainyard.api.status import Change, Measurement, ScalingStatus
from trainyard.scheduling.conversion import wants_gpus
from trainyard.scheduling.request import Decision

_H = TypeVar("_H", bound=Assignment)

HISTORY = 20
PROFILE = 64
SETTLED_STEPS = 5
"""Steps that a throughput needs behind it before a speed-up is called measured."""


def initial_assignment(job: Job, pods: tuple[Pod, ...]) -> Assignment:
    """What a restarted operator takes as decided: the status, else what it finds running."""
    held = assignment_of(job)
    if held.desired or is_true(job.status.conditions, Type.ADMITTED):
        return held
    found = group_pods(pods, job.uid).members
    if not found or not wants_gpus(job):
        return held
    # The status of its start was never written, and any of its pods may be missing still: they
    # are a gang.
    changes: dict[str, Any] = {
        "reason": Reason.ADMITTED,
        "message": "Found running.",
        "decided_at": whole_seconds(min(pod.created_at for pod in found.values())),
    }
    match job:
        case DistributedJob():
            # The highest index says how large it was at least.
            seen = max((index for index in found if isinstance(index, int)), default=0)
            meant = max(job.spec.workers.min, seen + 1)
            changes |= {"desired": meant, "recommended": meant}
        case FederatedJob():
            changes |= {"parties": [party.name for party in job.spec.local_parties]}
    return msgspec.structs.replace(held, **changes)


def apply_decision(job: Job, before: Assignment, decision: Decision, now: datetime) -> Assignment:
    """What the job holds after a decision."""
    match job:
        case DistributedJob():
            assert isinstance(before, ScalingStatus)  # noqa: S101 - of this kind of job
            return record_decision(before, decision, job.spec.scaling, now)
        case FederatedJob():
            assert isinstance(before, AdmissionStatus)  # noqa: S101 - of this kind of job
            return _record_admission(before, decision, now)


def _record_admission(
    before: AdmissionStatus, decision: Decision, now: datetime
) -> AdmissionStatus:
    told = msgspec.structs.replace(before, reason=decision.reason, message=decision.message)
    if decision.reason is Reason.START_TIMED_OUT and decision.requeue_at is not None:
        return msgspec.structs.replace(told, cooldown_until=whole_seconds(decision.requeue_at))
    if decision.parties == before.assigned:
        return told
    return msgspec.structs.replace(
        told, parties=list(decision.parties), decided_at=whole_seconds(now), cooldown_until=None
    )


def is_significant_change(before: Assignment, after: Assignment) -> bool:
    """Whether a decision changed more than its sentence.

    Why a job keeps what it holds is part of the sentence; why it waits is what people wait for.
    """
    return _comparable(before) != _comparable(after)


def _comparable(held: Assignment) -> tuple[object, ...]:
    recommended = held.recommended if isinstance(held, ScalingStatus) else held.desired
    return held.assigned, recommended, "" if held.assigned else held.reason


def release(before: _H, reason: str, message: str) -> _H:
    """What a job holds that holds nothing any more."""
    if isinstance(before, AdmissionStatus):
        return msgspec.structs.replace(before, parties=[], reason=reason, message=message)
    return msgspec.structs.replace(
        before, desired=0, recommended=0, current=0, reason=reason, message=message
    )


def refuse_start(before: _H, pause: timedelta, message: str, now: datetime) -> _H:
    """What a gang holds that did not start in time and stands back."""
    released = release(before, Reason.START_TIMED_OUT, message)
    return msgspec.structs.replace(released, cooldown_until=whole_seconds(now + pause))


def apply_report(before: Assignment, report: CoordinatorReport) -> Assignment:
    """What a report adds to the decision that it measures."""
    return record_report(before, report) if isinstance(before, ScalingStatus) else before


def record_decision(
    before: ScalingStatus, decision: Decision, spec: Scaling, now: datetime
) -> ScalingStatus:
    """The status after a decision; a changed number of workers also enters the history."""
    told = msgspec.structs.replace(
        before,
        desired=decision.workers,
        recommended=decision.recommended,
        reason=decision.reason,
        message=decision.message,
    )
    if decision.reason is Reason.START_TIMED_OUT and decision.requeue_at is not None:
        return msgspec.structs.replace(told, cooldown_until=whole_seconds(decision.requeue_at))
    if decision.workers == before.desired:
        return told
    expected = None if decision.expected_speedup is None else round(decision.expected_speedup, 3)
    change = Change(
        from_=before.desired,
        to=decision.workers,
        reason=decision.reason,
        decided_at=whole_seconds(now),
        expected_speedup=expected,
    )
    return msgspec.structs.replace(
        told,
        expected_speedup=expected,
        measured_speedup=None,
        decided_at=whole_seconds(now),
        cooldown_until=whole_seconds(now + parse_duration(spec.cooldown)),
        history=[*before.history, change][-HISTORY:],
    )


def record_report(before: ScalingStatus, report: CoordinatorReport) -> ScalingStatus:
    """The status with what was measured: profile, cost of the last rescale, and the speed-up."""
    profile = _merge(before.profile, report.profile)
    history, measured = list(before.history), before.measured_speedup
    if history and history[-1].measured_speedup is None:
        last = history[-1]
        measured = measured_speedup(profile, last.from_, last.to)
        if measured is not None:
            history[-1] = msgspec.structs.replace(last, measured_speedup=measured)
    return msgspec.structs.replace(
        before,
        current=report.active_workers,
        profile=profile,
        history=history,
        measured_speedup=measured,
        stall_seconds=_rounded(report.stall_seconds),
        cost_gpu_seconds=_rounded(report.cost_gpu_seconds),
    )


def measured_speedup(profile: Iterable[Measurement], before: int, after: int) -> float | None:
    """Samples per second after ÷ before; None until both sizes are measured."""
    slow, fast = (_throughput(profile, workers) for workers in (before, after))
    return round(fast / slow, 3) if slow and fast else None


def _throughput(profile: Iterable[Measurement], workers: int) -> float | None:
    rows = [m for m in profile if m.workers == workers and m.steps >= SETTLED_STEPS]
    steps = sum(m.steps for m in rows)
    return sum(m.samples_per_second * m.steps for m in rows) / steps if steps else None


def _merge(old: Iterable[Measurement], new: Iterable[Measurement]) -> list[Measurement]:
    """Newer figures replace older ones of the same configuration, as a restarted coordinator
    knows only what it has seen itself."""
    merged = {(m.nodes, m.workers, m.local_batch): m for m in old}
    for m in new:
        place = (m.nodes, m.workers, m.local_batch)
        if place not in merged or m.steps >= min(SETTLED_STEPS, merged[place].steps):
            merged[place] = msgspec.structs.replace(
                m, samples_per_second=round(m.samples_per_second, 2)
            )
    return sorted(merged.values(), key=lambda m: (m.workers, m.nodes, m.local_batch))[-PROFILE:]


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)
