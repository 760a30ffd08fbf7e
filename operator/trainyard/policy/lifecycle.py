"""Where a job stands and what it should have now: the one rule that reads all others.

`judge` walks the stages of a job's life in order and stops at the first that applies, so that the
answer depends on what is observed alone, never on what was observed before.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from trainyard.api.conditions import Condition, Truth, Type, is_true
from trainyard.api.jobs import DistributedJob, parse_time
from trainyard.api.pods import Pod
from trainyard.api.report import Report
from trainyard.api.status import Failed, ScalingStatus
from trainyard.policy.failures import record_failures
from trainyard.policy.limits import Limits
from trainyard.policy.roster import Roster
from trainyard.policy.support import unsupported
from trainyard_trainer.contract import WIRE_VERSION, LastWords, Result, Role


class Phase(StrEnum):
    """A job's state in one word, for people."""

    PENDING = "Pending"
    WAITING = "Waiting"
    STARTING = "Starting"
    RUNNING = "Running"
    RESCALING = "Rescaling"
    SUSPENDING = "Suspending"
    SUSPENDED = "Suspended"
    COMPLETE = "Complete"
    FAILED = "Failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """The pods a job should have."""

    coordinator: bool = False
    workers: int = 0
    replace_at: datetime | None = None
    """Pods that failed are not replaced before."""
    keeps_live: bool = False
    """Live pods beyond the wish are left to end by themselves."""
    keeps_finished: bool = False
    """Finished pods stay, so that their logs can be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Everything that follows from one look at a job."""

    phase: Phase
    wish: Wish = Wish()
    claims: tuple[Condition, ...] = ()
    suspend: bool = False
    """The coordinator should checkpoint and stop."""
    release: str = ""
    """Why the job gives up its GPUs; empty while it keeps them."""
    refuse_start: bool = False
    """Whether it must stand back before it is admitted again."""
    failures: list[Failed] = field(default_factory=list)
    restarts: int = 0
    started: bool = False
    completed: bool = False
    final: LastWords | None = None
    """What a complete training's last words report."""
    delete_job: bool = False
    """Its time to live after the end is over."""
    again_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What `judge` looks at."""

    job: DistributedJob
    roster: Roster
    scaling: ScalingStatus
    report: Report | None
    limits: Limits
    now: datetime


def judge(look: Look) -> Verdict:
    """The verdict of the first stage that applies."""
    for stage in (_finished, _refused, _ended, _overdue):
        if (verdict := stage(look)) is not None:
            return verdict
    return _with_deadline(look, _unfinished(look))


def _unfinished(look: Look) -> Verdict:
    for stage in (_completing, _suspended, _waiting, _late):
        if (verdict := stage(look)) is not None:
            return verdict
    return _running(look)


def _with_deadline(look: Look, verdict: Verdict) -> Verdict:
    """The verdict, looked at again when something of it is due; what is past would spin."""
    times = (verdict.again_at, _deadline(look.job))
    return replace(verdict, again_at=min((t for t in times if t and t > look.now), default=None))


def with_refusal(verdict: Verdict, message: str) -> Verdict:
    """The verdict of a job whose children the API server refused: it says so."""
    told = f"The API server refused a child of this job: {message[:600]}"
    others = tuple(c for c in verdict.claims if c.type != Type.DEGRADED)
    claim = _claim(Type.DEGRADED, "True", "ChildRefused", told)
    return replace(verdict, claims=(*others, claim))


def _claim(type_: Type, status: Truth, reason: str, message: str = "") -> Condition:
    return Condition(type=type_, status=status, reason=reason, message=message)


def is_finished(job: DistributedJob) -> bool:
    """Whether the job has ended, well or badly."""
    conditions = job.status.conditions
    return is_true(conditions, Type.COMPLETE) or is_true(conditions, Type.FAILED)


def _finished(look: Look) -> Verdict | None:
    job = look.job
    if not is_finished(job):
        return None
    ended_at = parse_time(job.status.completion_time) if job.status.completion_time else look.now
    is_complete = is_true(job.status.conditions, Type.COMPLETE)
    ttl = job.spec.ttl_seconds_after_finished
    expires_at = None if ttl is None else ended_at + timedelta(seconds=ttl)
    grace_until = ended_at + look.limits.finish_grace
    in_grace = is_complete and look.now < grace_until
    times = [t for t in (grace_until if in_grace else None, expires_at) if t is not None]
    return Verdict(
        phase=Phase.COMPLETE if is_complete else Phase.FAILED,
        wish=Wish(
            coordinator=is_complete and not job.is_durable and look.roster.coordinator is not None,
            keeps_live=in_grace,
            keeps_finished=True,
        ),
        release="The job has ended.",
        failures=job.status.failures,
        restarts=job.status.restarts,
        delete_job=expires_at is not None and look.now >= expires_at,
        again_at=min(times, default=None),
    )


def _refused(look: Look) -> Verdict | None:
    reason = unsupported(look.job.spec)
    if not reason or look.job.status.start_time:
        return None  # a job that trains is not stopped for a field that is not followed: it is told
    return Verdict(
        phase=Phase.PENDING,
        claims=(_claim(Type.ACCEPTED, "False", "NotSupportedYet", reason),),
        release=reason,
        failures=look.job.status.failures,
        restarts=look.job.status.restarts,
    )


def _ended(look: Look) -> Verdict | None:
    """Complete, or failed for good."""
    record = record_failures(look.job, look.roster, look.limits, look.now)
    if (final := _outcome(look)) is not None:
        return _end(look, Type.COMPLETE, "TrainingComplete", _summary(final.metrics), final)
    if record.fatal:
        return _end(look, Type.FAILED, record.fatal_reason, record.fatal)
    return None


def _outcome(look: Look) -> LastWords | None:
    """The last words of a training that is complete and whose result is safe; None before."""
    by_coordinator = look.roster.ended(Role.COORDINATOR, Result.COMPLETE)
    if by_coordinator:
        return by_coordinator[-1][1]
    if look.job.is_durable:
        return None  # the coordinator itself says when the claim has everything
    report = look.report
    if report is not None and report.outcome == Result.COMPLETE:
        return LastWords(
            result=Result.COMPLETE,
            step=report.step,
            samples=report.samples,
            metrics=dict(report.evaluation),
        )
    by_worker = look.roster.ended(Role.WORKER, Result.COMPLETE)
    return max((words for _, words in by_worker), key=lambda w: len(w.metrics), default=None)


def _summary(evaluation: dict[str, float]) -> str:
    figures = ", ".join(f"{name} {value:.4g}" for name, value in sorted(evaluation.items()))
    return f"Training is complete{': ' + figures if figures else ''}."


def _end(
    look: Look,
    type_: Type,
    reason: str,
    message: str,
    final: LastWords | None = None,
) -> Verdict:
    record = record_failures(look.job, look.roster, look.limits, look.now)
    is_complete = type_ is Type.COMPLETE
    return Verdict(
        phase=Phase.COMPLETE if is_complete else Phase.FAILED,
        wish=Wish(
            coordinator=is_complete and not look.job.is_durable,
            keeps_live=is_complete,
            keeps_finished=True,
        ),
        claims=(
            _claim(type_, "True", reason, message),
            _claim(Type.RUNNING, "False", reason),
            _claim(Type.RESCALING, "False", reason),
            _claim(Type.DEGRADED, "False", reason),
        ),
        release=message,
        failures=record.failures,
        restarts=record.restarts,
        completed=True,
        final=final,
        again_at=look.now + look.limits.finish_grace if is_complete else None,
    )


def _overdue(look: Look) -> Verdict | None:
    deadline = _deadline(look.job)
    if deadline is None or look.now < deadline:
        return None
    seconds = look.job.spec.active_deadline_seconds
    message = f"The job ran longer than spec.activeDeadlineSeconds={seconds}."
    return _end(look, Type.FAILED, "DeadlineExceeded", message)


def _deadline(job: DistributedJob) -> datetime | None:
    if job.spec.active_deadline_seconds is None or not job.status.start_time:
        return None
    return parse_time(job.status.start_time) + timedelta(seconds=job.spec.active_deadline_seconds)


def _completing(look: Look) -> Verdict | None:
    """Workers have finished and the coordinator stores the result: only it is replaced."""
    if not look.roster.ended(Role.WORKER, Result.COMPLETE):
        return None
    record = record_failures(look.job, look.roster, look.limits, look.now)
    return Verdict(
        phase=Phase.RUNNING,
        wish=Wish(
            coordinator=True, replace_at=record.retry_at, keeps_live=True, keeps_finished=True
        ),
        failures=record.failures,
        restarts=record.restarts,
        again_at=record.retry_at,
    )


def _suspended(look: Look) -> Verdict | None:
    if not look.job.spec.suspend:
        return None
    record = record_failures(look.job, look.roster, look.limits, look.now)
    give_up_at = _suspending_since(look) + look.limits.suspend_timeout
    if _can_save(look) and look.now < give_up_at:
        return Verdict(
            phase=Phase.SUSPENDING,
            wish=Wish(
                coordinator=True, replace_at=record.retry_at, keeps_live=True, keeps_finished=True
            ),
            claims=(_claim(Type.SUSPENDED, "Unknown", "Checkpointing", "Saving the state first."),),
            suspend=True,
            failures=record.failures,
            restarts=record.restarts,
            again_at=give_up_at,
        )
    keeps_coordinator = _keeps_coordinator(look)
    kept = (
        " The coordinator stays: without spec.state.claim it holds the only copy of the state."
        if keeps_coordinator
        else ""
    )
    message = f"spec.suspend is true; the GPUs are free.{kept}"
    return Verdict(
        phase=Phase.SUSPENDED,
        wish=Wish(coordinator=keeps_coordinator),
        claims=(
            _accepted(look),
            _claim(Type.ADMITTED, "False", "Suspended"),
            _claim(Type.RUNNING, "False", "Suspended"),
            _claim(Type.RESCALING, "False", "Suspended"),
            _claim(Type.SUSPENDED, "True", "Requested", message),
            _durability(look.job),
        ),
        suspend=True,
        release="Suspended.",
        failures=record.failures,
        restarts=record.restarts,
    )


def _can_save(look: Look) -> bool:
    """Whether there are workers with a state; a coordinator that broke meanwhile is replaced."""
    return bool(look.roster.workers) and _ran(look)


def _keeps_coordinator(look: Look) -> bool:
    """Whether a job without workers keeps its coordinator, as the only copy of the state."""
    return not look.job.is_durable and look.roster.coordinator is not None and _ran(look)


def _suspending_since(look: Look) -> datetime:
    for condition in look.job.status.conditions:
        if condition.type == Type.SUSPENDED and condition.status == "Unknown":
            return parse_time(condition.last_transition_time)
    return look.now


def _ran(look: Look) -> bool:
    """Whether there may be training state to save."""
    return is_true(look.job.status.conditions, Type.RUNNING) or bool(look.job.status.training)


def _waiting(look: Look) -> Verdict | None:
    if look.scaling.desired:
        return None
    record = record_failures(look.job, look.roster, look.limits, look.now)
    return Verdict(
        phase=Phase.WAITING,
        wish=Wish(coordinator=_keeps_coordinator(look)),
        claims=(
            _accepted(look),
            _claim(Type.ADMITTED, "False", look.scaling.reason or "Pending", look.scaling.message),
            _claim(Type.RUNNING, "False", "NotAdmitted"),
            _claim(Type.SUSPENDED, "False", "NotRequested"),
            _durability(look.job),
        ),
        failures=record.failures,
        restarts=record.restarts,
    )


def _late(look: Look) -> Verdict | None:
    """A gang that holds GPUs without getting to run gives them back."""
    until = _start_limit(look)
    if until is None or look.now < until or _is_training(look):
        return None
    trouble = _trouble(look) or "its pods did not all start"
    minutes = look.limits.start_timeout.total_seconds() / 60
    message = f"Not running {minutes:g} min after it got its GPUs: {trouble}"
    record = record_failures(look.job, look.roster, look.limits, look.now)
    return Verdict(
        phase=Phase.WAITING,
        wish=Wish(coordinator=_keeps_coordinator(look)),
        claims=(
            _accepted(look),
            _claim(Type.ADMITTED, "False", "StartTimedOut", message),
            _claim(Type.RUNNING, "False", "NotAdmitted"),
            _claim(Type.RESCALING, "False", "NotAdmitted"),
            _claim(Type.DEGRADED, "True", "StartTimedOut", message),
        ),
        release=message,
        refuse_start=True,
        failures=record.failures,
        restarts=record.restarts,
    )


def _running(look: Look) -> Verdict:
    record = record_failures(look.job, look.roster, look.limits, look.now)
    phase = _running_phase(look)
    times = (record.retry_at, _start_limit(look))
    return Verdict(
        phase=phase,
        wish=Wish(coordinator=True, workers=look.scaling.desired, replace_at=record.retry_at),
        claims=(
            _accepted(look),
            _claim(Type.ADMITTED, "True", "Admitted", look.scaling.message),
            _running_claim(look, phase),
            _rescaling_claim(look, phase),
            _claim(Type.SUSPENDED, "False", "NotRequested"),
            _durability(look.job),
            _degraded_claim(look, record.failures),
        ),
        failures=record.failures,
        restarts=record.restarts,
        started=True,
        again_at=min((t for t in times if t and t > look.now), default=None),
    )


def _running_phase(look: Look) -> Phase:
    if _is_running(look):
        return Phase.RUNNING
    has_run = is_true(look.job.status.conditions, Type.RUNNING)
    return Phase.RESCALING if has_run and _running_workers(look) else Phase.STARTING


def _is_running(look: Look) -> bool:
    """Whether the coordinator and all wanted workers run."""
    workers = look.roster.workers
    wanted = range(look.scaling.desired)
    return _has_coordinator(look) and all(i in workers and workers[i].is_running for i in wanted)


def _is_training(look: Look) -> bool:
    """Whether enough workers run to train, though not all that are wanted."""
    return _has_coordinator(look) and _running_workers(look) >= look.job.spec.workers.min


def _has_coordinator(look: Look) -> bool:
    coordinator = look.roster.coordinator
    return coordinator is not None and coordinator.is_running


def _running_workers(look: Look) -> int:
    return sum(pod.is_running for pod in look.roster.workers.values())


def _start_limit(look: Look) -> datetime | None:
    """Until when a job that does not run may hold its GPUs; a start counts anew from a loss."""
    if _running_phase(look) is not Phase.STARTING or not look.scaling.decided_at:
        return None
    since = parse_time(look.scaling.decided_at)
    for condition in look.job.status.conditions:
        if condition.type == Type.RUNNING:
            # Still True when the last worker was lost just now.
            lost_at = parse_time(condition.last_transition_time)
            since = max(since, lost_at if condition.status == "False" else look.now)
    return since + look.limits.start_timeout


def _accepted(look: Look) -> Condition:
    if reason := unsupported(look.job.spec):
        return _claim(Type.ACCEPTED, "False", "NotSupportedYet", reason)
    return _claim(Type.ACCEPTED, "True", "Valid")


def _durability(job: DistributedJob) -> Condition:
    if job.is_durable:
        message = f"State is kept in the claim {job.spec.state.claim}."
        return _claim(Type.STATE_DURABLE, "True", "Claim", message)
    message = (
        "Without spec.state.claim the state lives in the pods: it survives the loss of any one of "
        "them, not of all."
    )
    return _claim(Type.STATE_DURABLE, "False", "NoClaim", message)


def _running_claim(look: Look, phase: Phase) -> Condition:
    running, wanted = _running_workers(look), look.scaling.desired
    if phase is Phase.STARTING:
        message = _trouble(look) or f"{running} of {wanted} workers run."
        return _claim(Type.RUNNING, "False", "Starting", message)
    return _claim(Type.RUNNING, "True", "WorkersRunning")


def _rescaling_claim(look: Look, phase: Phase) -> Condition:
    wanted, report = look.scaling.desired, look.report
    if phase is Phase.RESCALING:
        return _claim(Type.RESCALING, "True", "PodsChanging", f"On the way to {wanted} workers.")
    if phase is Phase.RUNNING and report is not None and report.active_workers != wanted:
        members = ", ".join(f"{n} {state}" for state, n in sorted(report.members.items()) if n)
        message = f"On the way to {wanted} workers: {members or 'none has reported yet'}."
        return _claim(Type.RESCALING, "True", "WorkersJoining", message)
    return _claim(Type.RESCALING, "False", "Steady")


def _degraded_claim(look: Look, failures: list[Failed]) -> Condition:
    if look.report is not None and look.report.wire not in (0, WIRE_VERSION):
        message = (
            f"The trainer image speaks wire version {look.report.wire}, this operator "
            f"{WIRE_VERSION}: use images of the same release."
        )
        return _claim(Type.DEGRADED, "True", "WireMismatch", message)
    if trouble := _trouble(look):
        return _claim(Type.DEGRADED, "True", "PodTrouble", trouble)
    gone = [i for i in range(look.scaling.desired) if i not in look.roster.workers]
    if failures and (gone or look.roster.coordinator is None):
        return _claim(Type.DEGRADED, "True", "Replacing", failures[-1].message)
    return _claim(Type.DEGRADED, "False", "Healthy")


def _trouble(look: Look) -> str:
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
