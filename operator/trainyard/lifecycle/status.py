"""From a verdict to the status that is written: the one place where a status is put together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from trainyard.api import names
from trainyard.api.conditions import Type, is_true, merge_conditions
from trainyard.api.federation import (
    AdmissionStatus,
    FederatedJobStatus,
    FederatedTrainingStatus,
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
from trainyard.api.status import DistributedJobStatus, ScalingStatus, TrainingStatus
from trainyard.lifecycle.desired import DesiredState, Phase
from trainyard.lifecycle.parties import party_statuses, rounds_of, stopped
from trainyard_trainer.contract.env import Role

EVALUATIONS = 64
"""Metrics that the schema of the status takes."""

THROTTLED_CONDITIONS = (Type.ADMITTED, Type.RUNNING, Type.RESCALING)
"""Conditions whose sentences count along (pods that run, jobs ahead): such a sentence waits for the
metrics' next turn; whether its condition holds, and for what reason, is written at once."""


_H = TypeVar("_H", bound=Assignment)


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusInputs:
    """What a status is made from."""

    desired: DesiredState
    pods: JobPods
    scaling: Assignment
    report: CoordinatorReport | None
    term: int
    """The highest term ever used."""
    plan_generation: int
    now: datetime


def status_of(job: Job, found: StatusInputs) -> Status:
    """The whole status; equal inputs but for the time give an equal status."""
    match job:
        case DistributedJob():
            return _distributed(job, found)
        case FederatedJob():
            return _federated(job, found)


def _distributed(job: DistributedJob, found: StatusInputs) -> DistributedJobStatus:
    assert isinstance(found.scaling, ScalingStatus)  # noqa: S101 - of this kind of job
    old, active = job.status, sum(pod.is_running for pod in found.pods.members.values())
    return DistributedJobStatus(
        **_common(job, found),
        selector=f"{names.LABEL_JOB}={job.key.name},{names.LABEL_ROLE}={Role.WORKER}",
        replicas=active,
        # The last reading is older than the last words that a finished job's status holds.
        training=old.training if job.is_finished else _training(old.training, found),
        scaling=msgspec.structs.replace(found.scaling, current=_together(found, active)),
    )


def _federated(job: FederatedJob, found: StatusInputs) -> FederatedJobStatus:
    assert isinstance(found.scaling, AdmissionStatus)  # noqa: S101 - of this kind of job
    # What an earlier aggregator said of the parties is over.
    report = found.report if found.report and found.report.term == found.term else None
    parties = party_statuses(job, found.pods, found.scaling, report)
    is_standing = found.desired.phase in (Phase.SUSPENDED, Phase.COMPLETE, Phase.FAILED)
    return FederatedJobStatus(
        **_common(job, found),
        admission=found.scaling,
        training=job.status.training if job.is_finished else _rounds(job, found),
        parties=stopped(parties) if is_standing else parties,
    )


def _common(job: Job, found: StatusInputs) -> dict[str, Any]:
    """The fields of every kind."""
    old, verdict, now = job.status, found.desired, whole_seconds(found.now)
    return {
        "observed_generation": job.generation,
        "phase": verdict.phase,
        "conditions": merge_conditions(old.conditions, verdict.conditions, now, job.generation),
        "term": max(old.term, found.term),
        "restarts": verdict.restarts,
        "plan_generation": found.plan_generation,
        "start_time": old.start_time or (now if verdict.started else None),
        "completion_time": old.completion_time or (now if verdict.completed else None),
        "failures": verdict.failures,
    }


def _together(found: StatusInputs, running: int) -> int:
    """Workers that step together; before the first reading, those that run."""
    is_read = found.report is not None and running and found.report.term == found.term
    return found.report.active_workers if found.report and is_read else running


def _training(old: TrainingStatus | None, found: StatusInputs) -> TrainingStatus | None:
    report = found.report
    status = old or _first_sign(found)
    if report is not None and report.term:
        status = _of_report(report)
    final = found.desired.termination_message
    if final is None:
        return status
    status = status or TrainingStatus()
    return msgspec.structs.replace(
        status,
        step=status.step if final.step is None else final.step,
        samples=status.samples if final.samples is None else final.samples,
        evaluation=_rounded(final.metrics) or status.evaluation,
        at=whole_seconds(found.now),
    )


def _rounds(job: FederatedJob, found: StatusInputs) -> FederatedTrainingStatus | None:
    report, final = found.report, found.desired.termination_message
    status = job.status.training
    if report is not None and report.term and report.federation is not None:
        status = rounds_of(report, report.federation)
    elif status is None and is_true(found.desired.conditions, Type.RUNNING):
        status = FederatedTrainingStatus(term=found.term)
    if final is None:
        return status
    status = status or FederatedTrainingStatus()
    return msgspec.structs.replace(
        status,
        round=status.round if final.step is None else final.step,
        samples=status.samples if final.samples is None else final.samples,
        evaluation=_rounded(final.metrics) or status.evaluation,
        at=whole_seconds(found.now),
    )


def _first_sign(found: StatusInputs) -> TrainingStatus | None:
    """That the job trains, though it has not reported yet: its pods may hold the only state."""
    is_running = is_true(found.desired.conditions, Type.RUNNING)
    return TrainingStatus(term=found.term) if is_running else None


def _of_report(report: CoordinatorReport) -> TrainingStatus:
    return TrainingStatus(
        term=report.term,
        view=report.view,
        step=report.step,
        epoch=round(report.epoch, 3),
        samples=report.samples,
        loss=None if report.loss is None else round(report.loss, 6),
        evaluation=_rounded(report.evaluation),
        samples_per_second=_present_throughput(report),
        workers=report.active_workers,
        checkpoint_step=report.checkpoint_step if report.checkpoint_step >= 0 else None,
        at=whole_seconds(report.at),
    )


def _present_throughput(report: CoordinatorReport) -> float | None:
    rows = [m for m in report.profile if m.workers == report.active_workers]
    steps = sum(m.steps for m in rows)
    if not steps:
        return None
    return round(sum(m.samples_per_second * m.steps for m in rows) / steps, 2)


def _rounded(metrics: Mapping[str, float]) -> dict[str, float]:
    shown = sorted(metrics.items())[:EVALUATIONS]
    return {name: round(value, 6) for name, value in shown}


def is_urgent(old: Status, new: Status) -> bool:
    """Whether more than metrics differ, so that the status is written at once."""
    # On its way a job counts along; when it arrives, or no longer does, its phase changes.
    counts = new.phase in (Phase.STARTING, Phase.RESCALING)
    return _without_metrics(old, counts=counts) != _without_metrics(new, counts=counts)


def _without_metrics(status: Status, *, counts: bool) -> Status:
    conditions = [
        msgspec.structs.replace(c, message="") if c.type in THROTTLED_CONDITIONS else c
        for c in status.conditions
    ]
    if isinstance(status, FederatedJobStatus):
        admission = status.admission and _without_message(status.admission)
        return msgspec.structs.replace(
            status, training=None, admission=admission, parties=[], conditions=conditions
        )
    scaling = status.scaling
    if scaling is not None:
        scaling = msgspec.structs.replace(
            _without_message(scaling), profile=[], stall_seconds=None, cost_gpu_seconds=None
        )
        if counts:
            scaling = msgspec.structs.replace(scaling, current=0)
    replicas = 0 if counts else status.replicas
    return msgspec.structs.replace(
        status, replicas=replicas, training=None, scaling=scaling, conditions=conditions
    )


def _without_message(held: _H) -> _H:
    """Why a job keeps what it holds is part of the sentence; why it waits is told at once."""
    return msgspec.structs.replace(held, message="", reason="" if held.assigned else held.reason)
