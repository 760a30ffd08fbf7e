"""What a job of either kind holds of the cluster: carried out, recorded, given back."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TypeVar

import msgspec

from trainyard.api.federation import AdmissionStatus
from trainyard.api.jobs import DistributedJob, FederatedJob, Holding, Job, format_time
from trainyard.api.report import Report
from trainyard.api.status import ScalingStatus
from trainyard.policy.demand import Decision, Reason
from trainyard.policy.scaling import record_decision, record_report

_H = TypeVar("_H", bound=Holding)


def carry_out(job: Job, before: Holding, decision: Decision, now: datetime) -> Holding:
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
    if decision.reason is Reason.START_TIMED_OUT and decision.again_at is not None:
        return msgspec.structs.replace(told, cooldown_until=format_time(decision.again_at))
    if decision.parties == before.grant:
        return told
    return msgspec.structs.replace(
        told, parties=list(decision.parties), decided_at=format_time(now), cooldown_until=""
    )


def is_news(before: Holding, after: Holding) -> bool:
    """Whether a decision changed more than its sentence.

    Why a job keeps what it holds is part of the sentence; why it waits is what people wait for.
    """
    return _essence(before) != _essence(after)


def _essence(held: Holding) -> tuple[object, ...]:
    recommended = held.recommended if isinstance(held, ScalingStatus) else held.desired
    return held.grant, recommended, "" if held.grant else held.reason


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
    return msgspec.structs.replace(released, cooldown_until=format_time(now + pause))


def measure(before: Holding, report: Report) -> Holding:
    """What a report adds to the decision that it measures."""
    return record_report(before, report) if isinstance(before, ScalingStatus) else before
