"""What is assigned to a job: decisions and measurements in its status.

`status.scaling` of a DistributedJob, `status.admission` of a FederatedJob.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

import msgspec

from trainyard.api.conditions import ConditionType, is_true
from trainyard.api.durations import parse_duration
from trainyard.api.federation import AdmissionStatus
from trainyard.api.jobs import (
    Assignment,
    DistributedJob,
    FederatedJob,
    Job,
    whole_seconds,
)
from trainyard.api.names import MemberId
from trainyard.api.pods import Pod
from trainyard.api.podset import group_pods
from trainyard.api.reasons import Reason
from trainyard.api.report import CoordinatorReport
from trainyard.api.spec import Scaling
from trainyard.api.status import Change, Measurement, NotPlaced, Provisioning, ScalingStatus
from trainyard.scheduling.basis import GrowthBelowExpectation, PresentSizePays
from trainyard.scheduling.conversion import wants_gpus
from trainyard.scheduling.decision import Decision
from trainyard.scheduling.facts import SizeChanged, SizeKept
from trainyard.scheduling.profile import MIN_STEPS, merge_profiles

_AssignmentT = TypeVar("_AssignmentT", bound=Assignment)
_MemoryT = TypeVar("_MemoryT", NotPlaced | None, Provisioning | None)

MAX_HISTORY: Final = 20
MAX_FAILED_STARTS: Final = 1_000_000
"""The largest count that the schema of the status allows."""
MAX_DOUBLINGS: Final = 20
"""Of a back-off: more than any longest one needs, and no overflow."""


def initial_assignment(job: Job, pods: tuple[Pod, ...]) -> Assignment:
    """The assignment as a restarted operator finds it: in the status, else from running pods.

    If the status of its start was never written, any of its pods may be missing still: they are a
    gang.
    """
    assignment = job.assignment
    if assignment.desired or is_true(job.status.conditions, ConditionType.ADMITTED):
        return assignment
    members = group_pods(pods, job.uid).members
    if not members or not wants_gpus(job):
        return assignment
    return msgspec.structs.replace(
        assignment,
        reason=Reason.ADMITTED,
        message="Found running.",
        decision_time=whole_seconds(min(pod.created_at for pod in members.values())),
        **_size_found(job, members),
    )


def _size_found(job: Job, members: Iterable[MemberId]) -> dict[str, Any]:
    match job:
        case DistributedJob():
            # It had at least as many workers as the highest index says.
            highest = max((index for index in members if isinstance(index, int)), default=0)
            desired = max(job.spec.workers.min, highest + 1)
            return {"desired": desired, "recommended": desired}
        case FederatedJob():
            return {"parties": [party.name for party in job.spec.local_parties]}


def apply_decision(job: Job, before: Assignment, decision: Decision, now: datetime) -> Assignment:
    """The assignment after a decision."""
    match job:
        case DistributedJob():
            assert isinstance(before, ScalingStatus)  # noqa: S101 - of this kind of job
            return record_decision(before, decision, job.spec.scaling, now)
        case FederatedJob():
            assert isinstance(before, AdmissionStatus)  # noqa: S101 - of this kind of job
            return _record_admission(before, decision, now)


def is_significant_change(before: Assignment, after: Assignment) -> bool:
    """Whether more changed than the explanation.

    The reason is part of the explanation while the job has an assignment, and significant while
    it waits.
    """
    return _comparable(before) != _comparable(after)


def _comparable(assignment: Assignment) -> tuple[object, ...]:
    reason = "" if assignment.assigned else assignment.reason
    return assignment.assigned, assignment.recommended, reason


def release(before: _AssignmentT, reason: str, message: str) -> _AssignmentT:
    """The assignment after releasing all resources, and what was not placed is asked for anew."""
    if isinstance(before, AdmissionStatus):
        return msgspec.structs.replace(before, parties=[], reason=reason, message=message)
    return msgspec.structs.replace(
        before,
        desired=0,
        recommended=0,
        proven=0,
        current=0,
        reason=reason,
        message=message,
        not_placed=None,
        provisioning=None,
        left_out_workers=[],
    )


def back_off(
    before: _AssignmentT, first: timedelta, longest: timedelta, message: str, now: datetime
) -> _AssignmentT:
    """The assignment of a job whose start failed: released, and queued again after a back-off.

    That begins with `first` and doubles with each failed start since the job last trained.
    """
    released = release(before, Reason.START_TIMED_OUT, message)
    delay = min(first * 2 ** min(before.failed_starts, MAX_DOUBLINGS), longest)
    return msgspec.structs.replace(
        released,
        cooldown_end_time=whole_seconds(now + delay),
        failed_starts=min(before.failed_starts + 1, MAX_FAILED_STARTS),
        last_failed_start_time=whole_seconds(now),
    )


def forget_failed_starts(before: _AssignmentT) -> _AssignmentT:
    """The assignment of a job that trains; the same object if no start has failed."""
    if not before.failed_starts:
        return before
    return msgspec.structs.replace(before, failed_starts=0, last_failed_start_time=None)


def record_decision(
    before: ScalingStatus, decision: Decision, spec: Scaling, now: datetime
) -> ScalingStatus:
    """The status after a decision; a changed number of workers also enters the history."""
    after = msgspec.structs.replace(
        before,
        desired=decision.workers,
        recommended=decision.recommended,
        proven=_proven(before, decision),
        reason=decision.reason,
        message=decision.message,
        not_placed=_in_whole_seconds(decision.not_placed),
        provisioning=_in_whole_seconds(decision.provisioning),
        left_out_workers=list(decision.left_out),
    )
    if decision.reason is Reason.START_TIMED_OUT and decision.requeue_at is not None:
        return msgspec.structs.replace(after, cooldown_end_time=whole_seconds(decision.requeue_at))
    if decision.workers == before.desired:
        return after
    expected = None if decision.expected_speedup is None else round(decision.expected_speedup, 3)
    change = Change(
        from_=before.desired,
        to=decision.workers,
        reason=decision.reason,
        decision_time=whole_seconds(now),
        expected_speedup=expected,
        message=decision.message if decision.workers < before.desired else "",
    )
    return msgspec.structs.replace(
        after,
        expected_speedup=expected,
        measured_speedup=None,
        decision_time=whole_seconds(now),
        cooldown_end_time=whole_seconds(now + parse_duration(spec.cooldown)),
        history=[*before.history, change][-MAX_HISTORY:],
    )


def _proven(before: ScalingStatus, decision: Decision) -> int:
    """The largest size found to pay, after a decision.

    A size counts once its trial is over: while the job is cooling down, no basis says that it pays.
    The middle of a growth was never measured, so that only what was below that growth counts.
    """
    match decision.facts:
        case SizeChanged(before=size, after=after, basis=GrowthBelowExpectation() as basis) if (
            decision.workers == after < size
        ):
            return min(before.proven, basis.before)
        case SizeKept(workers=size, basis=basis) | SizeChanged(before=size, basis=basis) if (
            isinstance(basis, PresentSizePays)
        ):
            return min(max(before.proven, size), decision.workers)
        case _:
            return min(before.proven, decision.workers)


def _in_whole_seconds(memory: _MemoryT) -> _MemoryT:
    if memory is None or memory.retry_time is None:
        return memory
    return msgspec.structs.replace(memory, retry_time=whole_seconds(memory.retry_time))


def _record_admission(
    before: AdmissionStatus, decision: Decision, now: datetime
) -> AdmissionStatus:
    after = msgspec.structs.replace(before, reason=decision.reason, message=decision.message)
    if decision.reason is Reason.START_TIMED_OUT and decision.requeue_at is not None:
        return msgspec.structs.replace(after, cooldown_end_time=whole_seconds(decision.requeue_at))
    if decision.parties == before.assigned:
        return after
    return msgspec.structs.replace(
        after,
        parties=list(decision.parties),
        decision_time=whole_seconds(now),
        cooldown_end_time=None,
    )


def apply_report(before: Assignment, report: CoordinatorReport) -> Assignment:
    """The assignment after a coordinator's report: parties of a federation are not measured."""
    return record_report(before, report) if isinstance(before, ScalingStatus) else before


def record_report(before: ScalingStatus, report: CoordinatorReport) -> ScalingStatus:
    """The status with what was measured: profile, cost of the last rescale, and the speed-up."""
    profile = merge_profiles(before.profile, report.profile)
    history, speedup = list(before.history), before.measured_speedup
    if history and history[-1].measured_speedup is None:
        last = history[-1]
        speedup = measured_speedup(profile, last.from_, last.to)
        if speedup is not None:
            history[-1] = msgspec.structs.replace(last, measured_speedup=speedup)
    return msgspec.structs.replace(
        before,
        current=report.active_workers,
        profile=profile,
        history=history,
        measured_speedup=speedup,
        stall_seconds=_rounded(report.stall_seconds),
        cost_gpu_seconds=_rounded(report.cost_gpu_seconds),
    )


def measured_speedup(profile: Iterable[Measurement], before: int, after: int) -> float | None:
    """Samples per second after ÷ before; None until both sizes are measured."""
    slow, fast = (_throughput(profile, workers) for workers in (before, after))
    return round(fast / slow, 3) if slow and fast else None


def _throughput(profile: Iterable[Measurement], workers: int) -> float | None:
    rows = [m for m in profile if m.workers == workers and m.steps >= MIN_STEPS]
    steps = sum(m.steps for m in rows)
    return sum(m.samples_per_second * m.steps for m in rows) / steps if steps else None


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)
