"""One look at a job: everything that is known of it now, and what it shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from trainyard.api.conditions import Type, is_true
from trainyard.api.federation import AdmissionStatus
from trainyard.api.jobs import Assignment, DistributedJob, FederatedJob, Job
from trainyard.api.names import MemberId
from trainyard.api.pods import Pod
from trainyard.api.podset import JobPods
from trainyard.api.report import CoordinatorReport
from trainyard.lifecycle.desired import Phase
from trainyard.lifecycle.failures import FailureRecord, record_failures
from trainyard.lifecycle.timeouts import Timeouts


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What `judge` looks at."""

    job: Job
    pods: JobPods
    scaling: Assignment
    """What the scheduler decided."""
    report: CoordinatorReport | None
    record: FailureRecord
    """The job's failures, those of this look included."""
    timeouts: Timeouts
    now: datetime

    @classmethod
    def at(
        cls,
        job: Job,
        roster: JobPods,
        scaling: Assignment,
        report: CoordinatorReport | None,
        limits: Timeouts,
        now: datetime,
    ) -> Self:
        """A look at the job as it is now."""
        return cls(
            job=job,
            pods=roster,
            scaling=scaling,
            report=report,
            record=record_failures(job, roster, limits, now),
            timeouts=limits,
            now=now,
        )


def wanted(look: Observation) -> Sequence[MemberId]:
    """The workers or parties that the decision in force gives pods to."""
    held = look.scaling
    return tuple(held.parties) if isinstance(held, AdmissionStatus) else range(held.desired)


def quorum(job: Job) -> int:
    """How many workers or parties must run for the job to train."""
    match job:
        case DistributedJob():
            return job.spec.workers.min
        case FederatedJob():
            return job.spec.rounds.min_parties


def running_phase(look: Observation) -> Phase:
    """Starting, running or rescaling, as the pods show it."""
    if is_running(look):
        return Phase.RUNNING
    if isinstance(look.job, FederatedJob):
        return Phase.STARTING
    has_run = is_true(look.job.status.conditions, Type.RUNNING)
    return Phase.RESCALING if has_run and running_members(look) else Phase.STARTING


def is_running(look: Observation) -> bool:
    """Whether the coordinator and all wanted workers run, or a quorum of parties."""
    if isinstance(look.job, FederatedJob):
        return is_training(look)
    members = look.pods.members
    return _has_coordinator(look) and all(
        m in members and members[m].is_running for m in wanted(look)
    )


def is_training(look: Observation) -> bool:
    """Whether enough members run to train, though perhaps not all that are wanted."""
    return _has_coordinator(look) and running_members(look) >= quorum(look.job)


def _has_coordinator(look: Observation) -> bool:
    coordinator = look.pods.coordinator
    return coordinator is not None and coordinator.is_running


def running_members(look: Observation) -> int:
    """How many workers or parties run."""
    return sum(pod.is_running for pod in look.pods.members.values())


def absent_members(look: Observation) -> list[MemberId]:
    """The wanted workers or parties whose pod does not run."""
    members = look.pods.members
    return [m for m in wanted(look) if m not in members or not members[m].is_running]


def start_limit(look: Observation) -> datetime | None:
    """Until when a job that does not train may hold its GPUs; a start counts anew from a loss."""
    is_starting = running_phase(look) is Phase.STARTING and not is_training(look)
    if not is_starting or not look.scaling.decided_at:
        return None
    since = look.scaling.decided_at
    for condition in look.job.status.conditions:
        if condition.type == Type.RUNNING:
            # Still True when the last worker was lost just now.
            lost_at = condition.last_transition_time
            if lost_at is None or condition.status != "False":
                lost_at = look.now
            since = max(since, lost_at)
    return since + look.timeouts.start_timeout


def has_run(look: Observation) -> bool:
    """Whether there may be training state to save."""
    return is_true(look.job.status.conditions, Type.RUNNING) or bool(look.job.status.training)


def trouble_of(look: Observation) -> str:
    """Why a pod does not start, in one sentence; empty when none has trouble."""
    troubled: list[Pod] = [p for p in look.pods.live if p.waiting_reason]
    if not troubled:
        return ""
    pod = troubled[0]
    hint = {
        "ErrImagePull": f"spec.image {look.job.spec.image!r} cannot be pulled",
        "ImagePullBackOff": f"spec.image {look.job.spec.image!r} cannot be pulled",
        "InvalidImageName": f"spec.image {look.job.spec.image!r} is not an image name",
        "ErrImageNeverPull": f"spec.image {look.job.spec.image!r} is not on the node",
        "Unschedulable": "no node takes it",
    }.get(pod.waiting_reason, "it does not start")
    return f"Pod {pod.name}: {hint} ({pod.waiting_reason}: {pod.waiting_message[:300]})."
