"""One look at a job: everything that is known of it now, and what it shows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from trainyard.api.conditions import Type, is_true
from trainyard.api.jobs import DistributedJob, parse_time
from trainyard.api.pods import Pod
from trainyard.api.report import Report
from trainyard.api.status import ScalingStatus
from trainyard.policy.limits import Limits
from trainyard.policy.roster import Roster
from trainyard.policy.verdict import Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What `judge` looks at."""

    job: DistributedJob
    roster: Roster
    scaling: ScalingStatus
    report: Report | None
    limits: Limits
    now: datetime


def running_phase(look: Look) -> Phase:
    """Starting, running or rescaling, as the pods show it."""
    if is_running(look):
        return Phase.RUNNING
    has_run = is_true(look.job.status.conditions, Type.RUNNING)
    return Phase.RESCALING if has_run and running_workers(look) else Phase.STARTING


def is_running(look: Look) -> bool:
    """Whether the coordinator and all wanted workers run."""
    workers = look.roster.workers
    wanted = range(look.scaling.desired)
    return _has_coordinator(look) and all(i in workers and workers[i].is_running for i in wanted)


def is_training(look: Look) -> bool:
    """Whether enough workers run to train, though not all that are wanted."""
    return _has_coordinator(look) and running_workers(look) >= look.job.spec.workers.min


def _has_coordinator(look: Look) -> bool:
    coordinator = look.roster.coordinator
    return coordinator is not None and coordinator.is_running


def running_workers(look: Look) -> int:
    """How many workers run."""
    return sum(pod.is_running for pod in look.roster.workers.values())


def start_limit(look: Look) -> datetime | None:
    """Until when a job that does not run may hold its GPUs; a start counts anew from a loss."""
    if running_phase(look) is not Phase.STARTING or not look.scaling.decided_at:
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
