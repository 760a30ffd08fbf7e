"""One look at a job: everything that is known of it now, and what it shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from trainyard.api.conditions import Type, is_true
from trainyard.api.federation import AdmissionStatus
from trainyard.api.jobs import DistributedJob, FederatedJob, Holding, Job, parse_time
from trainyard.api.names import Member
from trainyard.api.pods import Pod
from trainyard.api.podset import Roster
from trainyard.api.report import Report
from trainyard.lifecycle.desired import Phase
from trainyard.lifecycle.failures import Record, record_failures
from trainyard.lifecycle.timeouts import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What `judge` looks at."""

    job: Job
    roster: Roster
    scaling: Holding
    """What the scheduler decided."""
    report: Report | None
    record: Record
    """The job's failures, those of this look included."""
    limits: Limits
    now: datetime

    @classmethod
    def at(
        cls,
        job: Job,
        roster: Roster,
        scaling: Holding,
        report: Report | None,
        limits: Limits,
        now: datetime,
    ) -> Self:
        """A look at the job as it is now."""
        return cls(
            job=job,
            roster=roster,
            scaling=scaling,
            report=report,
            record=record_failures(job, roster, limits, now),
            limits=limits,
            now=now,
        )


def wanted(look: Look) -> Sequence[Member]:
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


def running_phase(look: Look) -> Phase:
    """Starting, running or rescaling, as the pods show it."""
    if is_running(look):
        return Phase.RUNNING
    if isinstance(look.job, FederatedJob):
        return Phase.STARTING
    has_run = is_true(look.job.status.conditions, Type.RUNNING)
    return Phase.RESCALING if has_run and running_members(look) else Phase.STARTING


def is_running(look: Look) -> bool:
    """Whether the coordinator and all wanted workers run, or a quorum of parties."""
    if isinstance(look.job, FederatedJob):
        return is_training(look)
    members = look.roster.members
    return _has_coordinator(look) and all(
        m in members and members[m].is_running for m in wanted(look)
    )


def is_training(look: Look) -> bool:
    """Whether enough members run to train, though perhaps not all that are wanted."""
    return _has_coordinator(look) and running_members(look) >= quorum(look.job)


def _has_coordinator(look: Look) -> bool:
    coordinator = look.roster.coordinator
    return coordinator is not None and coordinator.is_running


def running_members(look: Look) -> int:
    """How many workers or parties run."""
    return sum(pod.is_running for pod in look.roster.members.values())


def absent_members(look: Look) -> list[Member]:
    """The wanted workers or parties whose pod does not run."""
    members = look.roster.members
    return [m for m in wanted(look) if m not in members or not members[m].is_running]


def start_limit(look: Look) -> datetime | None:
    """Until when a job that does not train may hold its GPUs; a start counts anew from a loss."""
    is_starting = running_phase(look) is Phase.STARTING and not is_training(look)
    if not is_starting or not look.scaling.decided_at:
        return None
    since = parse_time(look.scaling.decided_at)
    for condition in look.job.status.conditions:
        if condition.type == Type.RUNNING:
            # Still True when the last worker was lost just now.
            lost_at = parse_time(condition.last_transition_time)
            since = max(since, lost_at if condition.status == "False" else look.now)
    return since + look.limits.start_timeout


def has_run(look: Look) -> bool:
    """Whether there may be training state to save."""
    return is_true(look.job.status.conditions, Type.RUNNING) or bool(look.job.status.training)


def trouble_of(look: Look) -> str:
    """Why a pod does not start, in one sentence; empty when none has trouble."""
    troubled: list[Pod] = [p for p in look.roster.live if p.trouble]
    if not troubled:
        return ""
    pod = troubled[0]
    hint = {
        "ErrImagePull": f"spec.image {look.job.spec.image!r} cannot be pulled",
        "ImagePullBackOff": f"spec.image {look.job.spec.image!r} cannot be pulled",
        "InvalidImageName": f"spec.image {look.job.spec.image!r} is not an image name",
        "ErrImageNeverPull": f"spec.image {look.job.spec.image!r} is not on the node",
        "Unschedulable": "no node takes it",
    }.get(pod.trouble, "it does not start")
    return f"Pod {pod.name}: {hint} ({pod.trouble}: {pod.trouble_message[:300]})."
