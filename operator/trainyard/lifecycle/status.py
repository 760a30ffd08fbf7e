"""The status of a job from its desired state, and whether it is urgent to write it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from trainyard.api import names
from trainyard.api.conditions import Condition, ConditionType, is_true, merge_conditions
from trainyard.api.federation import (
    AdmissionStatus,
    FederatedJobStatus,
    FederatedTrainingStatus,
    PartyStatus,
)
from trainyard.api.jobs import (
    Assignment,
    DistributedJob,
    FederatedJob,
    Job,
    Status,
    whole_seconds,
)
from trainyard.api.podset import JobPods
from trainyard.api.report import CoordinatorReport
from trainyard.api.status import (
    MAX_COUNT,
    DistributedJobStatus,
    ScalingStatus,
    TrainingStatus,
)
from trainyard.api.validation import Rejection
from trainyard.lifecycle.conditions import MAX_MESSAGE
from trainyard.lifecycle.desired import DesiredState, Phase
from trainyard.lifecycle.parties import party_statuses, rounds_of, without_pods
from trainyard.lifecycle.state_loss import stored_state_lost
from trainyard_trainer.contract.env import Role
from trainyard_trainer.contract.text import printable

EVALUATIONS = 64
"""Metrics that the schema of the status allows."""

THROTTLED_CONDITIONS = (
    ConditionType.ADMITTED,
    ConditionType.RUNNING,
    ConditionType.RESCALING,
    ConditionType.DIVERGED,
)
"""Conditions whose messages contain counts (pods that run, jobs ahead in the queue, steps): a
changed message is written with the next metrics, a changed status or reason at once."""

_Assignment = TypeVar("_Assignment", ScalingStatus, AdmissionStatus)
_WithMessage = TypeVar("_WithMessage", Condition, ScalingStatus, AdmissionStatus)


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusInputs:
    """What a status is made from, besides the job."""

    desired: DesiredState
    pods: JobPods
    assignment: Assignment
    report: CoordinatorReport | None
    term: int
    """The highest term ever used."""
    plan_generation: int
    now: datetime


def status_of(job: Job, inputs: StatusInputs) -> Status:
    """The whole status; inputs that differ only in time give an equal status."""
    match job:
        case DistributedJob():
            return _distributed(job, inputs)
        case FederatedJob():
            return _federated(job, inputs)


def rejected_status(job: Job, rejection: Rejection, now: datetime) -> Status:
    """The status as it was, but for why the job is rejected."""
    reason, message = rejection
    accepted = Condition(
        type=ConditionType.ACCEPTED, status="False", reason=reason, message=message
    )
    old = job.status
    return msgspec.structs.replace(
        old,
        observed_generation=job.generation,
        phase=old.phase or Phase.PENDING,
        conditions=merge_conditions(
            old.conditions, (accepted,), whole_seconds(now), job.generation
        ),
    )


def _distributed(job: DistributedJob, inputs: StatusInputs) -> DistributedJobStatus:
    assert isinstance(inputs.assignment, ScalingStatus)  # noqa: S101 - of this kind of job
    old, running = job.status, sum(pod.is_running for pod in inputs.pods.members.values())
    active = _active_workers(inputs, running)
    return DistributedJobStatus(
        **_common(job, inputs),
        selector=f"{names.LABEL_JOB}={job.key.name},{names.LABEL_ROLE}={Role.WORKER}",
        replicas=running,
        # The last report is older than the termination message in a finished job's status.
        training=old.training if job.is_finished else _training(old.training, inputs),
        scaling=_bounded(msgspec.structs.replace(inputs.assignment, current=active)),
        worker_failures=list(inputs.desired.worker_failures.values()),
    )


def _federated(job: FederatedJob, inputs: StatusInputs) -> FederatedJobStatus:
    assert isinstance(inputs.assignment, AdmissionStatus)  # noqa: S101 - of this kind of job
    # What an earlier aggregator reported of the parties holds no longer.
    report = inputs.report if inputs.report and inputs.report.term == inputs.term else None
    parties = party_statuses(
        job, inputs.pods, inputs.assignment, report, inputs.desired.party_failures
    )
    is_stopped = inputs.desired.phase in (Phase.SUSPENDED, Phase.COMPLETE, Phase.FAILED)
    return FederatedJobStatus(
        **_common(job, inputs),
        coordinator_restarts=inputs.desired.coordinator_restarts,
        admission=_bounded(inputs.assignment),
        training=job.status.training if job.is_finished else _rounds(job, inputs),
        parties=without_pods(parties) if is_stopped else parties,
    )


def _common(job: Job, inputs: StatusInputs) -> dict[str, Any]:
    """The fields that both kinds have."""
    old, desired, now = job.status, inputs.desired, whole_seconds(inputs.now)
    conditions = [_bounded(condition) for condition in desired.conditions]
    return {
        "observed_generation": job.generation,
        "phase": desired.phase,
        "image": job.image,
        "conditions": merge_conditions(old.conditions, conditions, now, job.generation),
        "term": max(old.term, inputs.term),
        "restarts": desired.restarts,
        "plan_generation": inputs.plan_generation,
        "start_time": old.start_time or (now if desired.started else None),
        "completion_time": old.completion_time or (now if desired.completed else None),
        "failures": desired.failures,
    }


def _bounded(part: _WithMessage) -> _WithMessage:
    """The same with a message that the schema allows."""
    message = printable(part.message)
    if len(message) > MAX_MESSAGE:
        message = f"{message[: MAX_MESSAGE - 1]}…"
    return part if message == part.message else msgspec.structs.replace(part, message=message)


def _active_workers(inputs: StatusInputs, running: int) -> int:
    """Workers that step together; before the first report of this term, those that run."""
    report = inputs.report
    if report is None or not running or report.term != inputs.term:
        return running
    return report.active_workers


def _training(old: TrainingStatus | None, inputs: StatusInputs) -> TrainingStatus | None:
    report = inputs.report
    status = old or _before_first_report(inputs)
    if report is not None and report.term:
        status = _training_status(report)
    final = inputs.desired.termination_message
    if final is None:
        return status
    status = status or TrainingStatus()
    return msgspec.structs.replace(
        status,
        step=status.step if final.step is None else _count(final.step),
        samples=status.samples if final.samples is None else _count(final.samples),
        evaluation=_rounded(final.metrics) or status.evaluation,
        report_time=whole_seconds(inputs.now),
    )


def _count(value: int) -> int:
    """A count of a termination message, which anyone may write, within what the schema allows."""
    return max(0, min(value, MAX_COUNT))


def _rounds(job: FederatedJob, inputs: StatusInputs) -> FederatedTrainingStatus | None:
    report, final = inputs.report, inputs.desired.termination_message
    status = job.status.training
    if report is not None and report.term and report.federation is not None:
        status = rounds_of(report, report.federation)
    elif status is None and is_true(inputs.desired.conditions, ConditionType.RUNNING):
        status = FederatedTrainingStatus(term=inputs.term)
    if final is None:
        return status
    status = status or FederatedTrainingStatus()
    return msgspec.structs.replace(
        status,
        round=status.round if final.step is None else _count(final.step),
        samples=status.samples if final.samples is None else _count(final.samples),
        evaluation=_rounded(final.metrics) or status.evaluation,
        report_time=whole_seconds(inputs.now),
    )


def _before_first_report(inputs: StatusInputs) -> TrainingStatus | None:
    """Training has begun, as its pods run: they may already hold the only copy of the state."""
    is_running = is_true(inputs.desired.conditions, ConditionType.RUNNING)
    return TrainingStatus(term=inputs.term) if is_running else None


def _training_status(report: CoordinatorReport) -> TrainingStatus:
    return TrainingStatus(
        term=report.term,
        view=report.view,
        step=report.step,
        epoch=round(report.epoch, 3),
        samples=report.samples,
        loss=None if report.loss is None else round(report.loss, 6),
        evaluation=_rounded(report.evaluation),
        samples_per_second=_throughput(report),
        workers=report.active_workers,
        checkpoint_step=report.checkpoint_step if report.checkpoint_step >= 0 else None,
        report_time=whole_seconds(report.at),
    )


def _throughput(report: CoordinatorReport) -> float | None:
    """Samples per second with the present number of workers, over all their placements."""
    measured = [m for m in report.profile if m.workers == report.active_workers]
    steps = sum(m.steps for m in measured)
    if not steps:
        return None
    return round(sum(m.samples_per_second * m.steps for m in measured) / steps, 2)


def _rounded(metrics: Mapping[str, float]) -> dict[str, float]:
    kept = sorted(metrics.items())[:EVALUATIONS]
    return {printable(name): round(value, 6) for name, value in kept}


def is_urgent(old: Status, new: Status) -> bool:
    """Whether more than metrics differ, so that the status is written at once."""
    if stored_state_lost(old, new):
        return True
    # While pods start, their count is a metric too; once they all run, the phase changes.
    counting = new.phase in (Phase.STARTING, Phase.RESCALING)
    return _without_metrics(old, counting=counting) != _without_metrics(new, counting=counting)


def _without_metrics(status: Status, *, counting: bool) -> Status:
    conditions = [
        msgspec.structs.replace(c, message="") if c.type in THROTTLED_CONDITIONS else c
        for c in status.conditions
    ]
    status = msgspec.structs.replace(status, conditions=conditions, training=None)
    match status:
        case FederatedJobStatus(admission=admission, parties=parties):
            return msgspec.structs.replace(
                status,
                admission=admission and _without_message(admission),
                parties=[PartyStatus(name=p.name, state="", failure=p.failure) for p in parties],
            )
        case DistributedJobStatus(scaling=scaling, replicas=replicas):
            return msgspec.structs.replace(
                status,
                scaling=scaling and _without_measurements(scaling, counting=counting),
                replicas=0 if counting else replicas,
            )


def _without_measurements(scaling: ScalingStatus, *, counting: bool) -> ScalingStatus:
    return msgspec.structs.replace(
        _without_message(scaling),
        profile=[],
        proven=0,
        stall_seconds=None,
        cost_gpu_seconds=None,
        current=0 if counting else scaling.current,
    )


def _without_message(assignment: _Assignment) -> _Assignment:
    """Nor the reason why a job keeps its assignment; the reason why it waits is urgent."""
    reason = "" if assignment.assigned else assignment.reason
    return msgspec.structs.replace(assignment, message="", reason=reason)
