"""Where a job stands and what it should have now: the one rule that reads all others.

`judge` walks the stages of a job's life in order and stops at the first that applies, so that the
answer depends on what is observed alone, never on what was observed before.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from trainyard.api.conditions import Condition, Type, is_true
from trainyard.api.durations import parse_duration
from trainyard.api.federation import AdmissionStatus
from trainyard.api.jobs import FederatedJob, Job
from trainyard.api.podset import MEMBER_ROLES
from trainyard.api.reasons import Reason
from trainyard.api.validation import validate
from trainyard.lifecycle.conditions import (
    accepted_condition,
    condition,
    degraded_condition,
    durability_condition,
    idle_conditions,
    rescaling_conditions,
    running_condition,
)
from trainyard.lifecycle.desired import DesiredPods, DesiredState, Phase, earliest
from trainyard.lifecycle.observation import (
    Observation,
    has_run,
    running_phase,
    start_limit,
    trouble_of,
)
from trainyard_trainer.contract.env import Role
from trainyard_trainer.contract.exits import Result, TerminationMessage


def evaluate(look: Observation) -> DesiredState:
    """The verdict of the first stage that applies."""
    for stage in (_finished, _refused, _ended, _overdue):
        if (verdict := stage(look)) is not None:
            return verdict
    return _with_deadline(look, _unfinished(look))


def _unfinished(look: Observation) -> DesiredState:
    for stage in (_completing, _suspended, _waiting, _start_timed_out):
        if (verdict := stage(look)) is not None:
            return verdict
    return _running(look)


def _with_deadline(look: Observation, verdict: DesiredState) -> DesiredState:
    """The verdict, looked at again when something of it is due; what is past would spin."""
    times = (verdict.requeue_at, _deadline(look.job))
    return replace(verdict, requeue_at=earliest(*(t for t in times if t and t > look.now)))


def _finished(look: Observation) -> DesiredState | None:
    job = look.job
    if not job.is_finished:
        return None
    ended_at = job.status.completion_time or look.now
    is_complete = is_true(job.status.conditions, Type.COMPLETE)
    expires_at = _expiry(job, ended_at)
    grace_until = ended_at + look.timeouts.finish_grace
    in_grace = is_complete and look.now < grace_until
    return DesiredState(
        phase=Phase.COMPLETE if is_complete else Phase.FAILED,
        pods=DesiredPods(
            coordinator=is_complete and not job.is_durable and look.pods.coordinator is not None,
            keeps_live=in_grace,
            keeps_finished=True,
        ),
        release="The job has ended.",
        failures=job.status.failures,
        restarts=job.status.restarts,
        delete_job=expires_at is not None and look.now >= expires_at,
        requeue_at=earliest(grace_until if in_grace else None, expires_at),
    )


def _expiry(job: Job, ended_at: datetime) -> datetime | None:
    """When a job that ended then has lived long enough."""
    ttl = job.spec.ttl_seconds_after_finished
    return None if ttl is None else ended_at + timedelta(seconds=ttl)


def _refused(look: Observation) -> DesiredState | None:
    refused = validate(look.job.spec)
    if not refused or look.job.status.start_time:
        return None  # a job that trains is not stopped for a field that is not followed: it is told
    return DesiredState(
        phase=Phase.PENDING,
        conditions=(condition(Type.ACCEPTED, "False", *refused),),
        release=refused.message,
        failures=look.job.status.failures,
        restarts=look.job.status.restarts,
    )


def _ended(look: Observation) -> DesiredState | None:
    """Complete, or failed for good."""
    if (final := _outcome(look)) is not None:
        return _end(look, Type.COMPLETE, "TrainingComplete", _summary(final.metrics), final)
    if look.record.fatal:
        return _end(look, Type.FAILED, look.record.fatal_reason, look.record.fatal)
    return None


def _outcome(look: Observation) -> TerminationMessage | None:
    """The last words of a training that is complete and whose result is safe; None before."""
    by_coordinator = look.pods.ended(Result.COMPLETE, Role.COORDINATOR)
    if by_coordinator:
        return by_coordinator[-1][1]
    if look.job.is_durable:
        return None  # the coordinator itself says when the claim has everything
    report = look.report
    if report is not None and report.outcome == Result.COMPLETE:
        return TerminationMessage(
            result=Result.COMPLETE,
            step=report.federation.round if report.federation else report.step,
            samples=report.samples,
            metrics=dict(report.evaluation),
        )
    if isinstance(look.job, FederatedJob) and look.pods.coordinator is not None:
        return None  # a party knows its own figures only; the aggregator is still there to be read
    by_member = look.pods.ended(Result.COMPLETE, *MEMBER_ROLES)
    return max((words for _, words in by_member), key=lambda w: len(w.metrics), default=None)


def _summary(evaluation: dict[str, float]) -> str:
    figures = ", ".join(f"{name} {value:.4g}" for name, value in sorted(evaluation.items()))
    return f"Training is complete{': ' + figures if figures else ''}."


def _end(
    look: Observation,
    type_: Type,
    reason: str,
    message: str,
    final: TerminationMessage | None = None,
) -> DesiredState:
    is_complete = type_ is Type.COMPLETE
    has_coordinator = look.pods.coordinator is not None
    grace_until = look.now + look.timeouts.finish_grace if is_complete else None
    expires_at = _expiry(look.job, look.now)
    # Not at once: the status that tells the end may meet a change and be written again.
    soon = look.now + timedelta(seconds=1)
    return DesiredState(
        phase=Phase.COMPLETE if is_complete else Phase.FAILED,
        pods=DesiredPods(
            coordinator=is_complete and not look.job.is_durable and has_coordinator,
            keeps_live=is_complete,
            keeps_finished=True,
        ),
        conditions=(
            condition(type_, "True", reason, message),
            *idle_conditions(look.job, reason),
            condition(Type.DEGRADED, "False", reason),
        ),
        release=message,
        failures=look.record.failures,
        restarts=look.record.restarts,
        completed=True,
        termination_message=final,
        # The status that tells this brings no event that would have it looked at again.
        requeue_at=earliest(grace_until, expires_at and max(expires_at, soon)),
    )


def _overdue(look: Observation) -> DesiredState | None:
    deadline = _deadline(look.job)
    if deadline is None or look.now < deadline:
        return None
    seconds = look.job.spec.active_deadline_seconds
    message = f"The job ran longer than spec.activeDeadlineSeconds={seconds}."
    return _end(look, Type.FAILED, "DeadlineExceeded", message)


def _deadline(job: Job) -> datetime | None:
    if job.spec.active_deadline_seconds is None or not job.status.start_time:
        return None
    return job.status.start_time + timedelta(seconds=job.spec.active_deadline_seconds)


def _completing(look: Observation) -> DesiredState | None:
    """Workers have finished and the coordinator stores the result: only it is replaced."""
    if not look.pods.ended(Result.COMPLETE, *MEMBER_ROLES):
        return None
    return DesiredState(
        phase=Phase.RUNNING,
        pods=_ending_pods(look),
        failures=look.record.failures,
        restarts=look.record.restarts,
        requeue_at=look.record.retry_at,
    )


def _ending_pods(look: Observation) -> DesiredPods:
    """The coordinator, while the others end by themselves and none of them is replaced."""
    return DesiredPods(
        coordinator=True, replace_at=look.record.retry_at, keeps_live=True, keeps_finished=True
    )


def _suspended(look: Observation) -> DesiredState | None:
    if not look.job.spec.suspend:
        return None
    give_up_at = _suspending_since(look) + _time_to_save(look)
    if _can_save(look) and look.now < give_up_at:
        return DesiredState(
            phase=Phase.SUSPENDING,
            pods=_ending_pods(look),
            conditions=(
                condition(Type.SUSPENDED, "Unknown", "Checkpointing", "Saving the state first."),
            ),
            suspend=True,
            failures=look.record.failures,
            restarts=look.record.restarts,
            requeue_at=give_up_at,
        )
    keeps_coordinator = _keeps_coordinator(look)
    kept = (
        " The coordinator stays: without spec.state.claimName it holds the only copy of the state."
        if keeps_coordinator
        else ""
    )
    message = f"spec.suspend is true; the GPUs are free.{kept}"
    return DesiredState(
        phase=Phase.SUSPENDED,
        pods=DesiredPods(coordinator=keeps_coordinator),
        conditions=(
            accepted_condition(look),
            condition(Type.ADMITTED, "False", "Suspended"),
            *idle_conditions(look.job, "Suspended"),
            condition(Type.SUSPENDED, "True", "Requested", message),
            condition(Type.DEGRADED, "False", "Suspended"),
            durability_condition(look.job),
        ),
        suspend=True,
        release="Suspended.",
        failures=look.record.failures,
        restarts=look.record.restarts,
    )


def _can_save(look: Observation) -> bool:
    """Whether there are workers with a state; a coordinator that broke meanwhile is replaced.

    A federation's state is at its aggregator, which says when it is safe.
    """
    return bool(look.pods.members) and has_run(look) and not _has_saved(look)


def _has_saved(look: Observation) -> bool:
    """Whether the aggregator of this term has ended or given up its round and keeps its state."""
    if not isinstance(look.job, FederatedJob):
        return False
    if look.report is not None and look.report.outcome == Result.SUSPENDED:
        return look.report.term == look.pods.term
    ended = look.pods.ended(Result.SUSPENDED, Role.COORDINATOR)
    return any(pod.attempt == look.pods.term for pod, _ in ended)


def _time_to_save(look: Observation) -> timedelta:
    """A checkpoint is quick; a round may go on until its deadline."""
    if isinstance(look.job, FederatedJob):
        return look.timeouts.suspend_timeout + parse_duration(look.job.spec.rounds.deadline)
    return look.timeouts.suspend_timeout


def _keeps_coordinator(look: Observation) -> bool:
    """Whether a job without workers keeps its coordinator, as the only copy of the state."""
    return not look.job.is_durable and look.pods.coordinator is not None and has_run(look)


def _suspending_since(look: Observation) -> datetime:
    for known in look.job.status.conditions:
        if known.type == Type.SUSPENDED and known.status == "Unknown":
            return known.last_transition_time or look.now
    return look.now


def _waiting(look: Observation) -> DesiredState | None:
    if look.scaling.desired:
        return None
    return DesiredState(
        phase=Phase.WAITING,
        pods=DesiredPods(coordinator=_keeps_coordinator(look)),
        conditions=(
            accepted_condition(look),
            condition(
                Type.ADMITTED, "False", look.scaling.reason or "Pending", look.scaling.message
            ),
            condition(Type.RUNNING, "False", "NotAdmitted"),
            condition(Type.SUSPENDED, "False", "NotRequested"),
            *_not_degraded(look),
            durability_condition(look.job),
        ),
        failures=look.record.failures,
        restarts=look.record.restarts,
    )


def _not_degraded(look: Observation) -> tuple[Condition, ...]:
    """A waiting job has no pods to be in trouble; why its last start failed stays to be read."""
    if look.scaling.reason == Reason.START_TIMED_OUT:
        return ()
    return (condition(Type.DEGRADED, "False", "NotAdmitted"),)


def _start_timed_out(look: Observation) -> DesiredState | None:
    """A gang that holds GPUs without getting to run gives them back."""
    until = start_limit(look)
    if until is None or look.now < until:
        return None
    trouble = trouble_of(look) or look.record.mismatch or "its pods did not all start"
    minutes = look.timeouts.start_timeout.total_seconds() / 60
    message = f"Not running {minutes:g} min after it got its GPUs: {trouble}"
    return DesiredState(
        phase=Phase.WAITING,
        pods=DesiredPods(coordinator=_keeps_coordinator(look)),
        conditions=(
            accepted_condition(look),
            condition(Type.ADMITTED, "False", "StartTimedOut", message),
            *idle_conditions(look.job, "NotAdmitted"),
            condition(Type.DEGRADED, "True", "StartTimedOut", message),
        ),
        release=message,
        refuse_start=True,
        failures=look.record.failures,
        restarts=look.record.restarts,
    )


def _all_pods(look: Observation) -> DesiredPods:
    """The coordinator, and all workers or parties that the decision in force gives pods to."""
    held = look.scaling
    workers, parties = (
        (0, tuple(held.parties)) if isinstance(held, AdmissionStatus) else (held.desired, ())
    )
    return DesiredPods(
        coordinator=True, workers=workers, parties=parties, replace_at=look.record.retry_at
    )


def _running(look: Observation) -> DesiredState:
    phase = running_phase(look)
    times = (look.record.retry_at, start_limit(look))
    return DesiredState(
        phase=phase,
        pods=_all_pods(look),
        conditions=(
            accepted_condition(look),
            condition(Type.ADMITTED, "True", "Admitted", look.scaling.message),
            running_condition(look, phase),
            *rescaling_conditions(look, phase),
            condition(Type.SUSPENDED, "False", "NotRequested"),
            durability_condition(look.job),
            degraded_condition(look, phase),
        ),
        failures=look.record.failures,
        restarts=look.record.restarts,
        started=True,
        requeue_at=earliest(*(t for t in times if t and t > look.now)),
    )
