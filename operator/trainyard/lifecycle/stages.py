"""The stages of a job's life, and what it should have in each: the rule that reads all others.

`evaluate` takes the first stage that applies, so that the desired state depends on what is
observed now and on nothing that was observed before.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from trainyard.api.conditions import ConditionType, is_true
from trainyard.lifecycle import messages
from trainyard.lifecycle.conditions import (
    accepted_condition,
    condition,
    degraded_condition,
    idle_conditions,
    rescaling_conditions,
    running_condition,
    start_failed_message,
    unsuspended_condition,
    waiting_conditions,
)
from trainyard.lifecycle.desired import DesiredPods, DesiredState, Phase, earliest
from trainyard.lifecycle.divergence import (
    TRAINING_DIVERGED,
    diverged_condition,
    ended_diverged_condition,
)
from trainyard.lifecycle.failures import FailureRecord
from trainyard.lifecycle.observation import Observation
from trainyard.lifecycle.party_failures import unchanged_record
from trainyard.lifecycle.reachability import must_replace, next_check, reachable_condition
from trainyard.lifecycle.state_loss import durability_condition, result_condition
from trainyard_trainer.contract.exits import TerminationMessage

STATUS_WAIT = timedelta(seconds=1)
"""Time for the status of a job's end: writing it may conflict and be retried."""


def evaluate(observed: Observation) -> DesiredState:
    """The desired state by the first stage that applies."""
    if (settled := _finished(observed) or _rejected(observed)) is not None:
        # It records no further failures.
        return _with_failures(settled, unchanged_record(observed.job))
    desired = (
        _ended(observed)
        or _past_deadline(observed)
        or _with_deadline(
            observed,
            _completing(observed)
            or _suspended(observed)
            or _waiting(observed)
            or _start_timed_out(observed)
            or _running(observed),
        )
    )
    return _with_failures(desired, observed.record)


def _with_failures(desired: DesiredState, record: FailureRecord) -> DesiredState:
    return replace(
        desired,
        failures=record.failures,
        restarts=record.restarts,
        coordinator_restarts=record.coordinator_restarts,
        party_failures=record.parties,
        worker_failures=record.workers,
    )


def _with_deadline(observed: Observation, desired: DesiredState) -> DesiredState:
    """The same state, requeued for the job's deadline; a past time would requeue it in a loop."""
    times = (desired.requeue_at, observed.active_deadline)
    return replace(desired, requeue_at=earliest(*(t for t in times if t and t > observed.now)))


# --- Jobs that have ended, or may not begin ---


def _finished(observed: Observation) -> DesiredState | None:
    """The status already says that the job is complete or failed."""
    job, now = observed.job, observed.now
    if not job.is_finished:
        return None
    ended_at = job.status.completion_time or now
    is_complete = is_true(job.status.conditions, ConditionType.COMPLETE)
    expires_at = observed.expiry(ended_at)
    grace_until = ended_at + observed.timeouts.finish_grace
    in_grace = is_complete and now < grace_until
    return DesiredState(
        phase=Phase.COMPLETE if is_complete else Phase.FAILED,
        pods=_pods_after_end(observed, is_complete=is_complete, keeps_live=in_grace),
        conditions=result_condition(observed) if is_complete else (),
        release=messages.JOB_ENDED,
        delete_job=observed.is_past(expires_at),
        requeue_at=earliest(grace_until if in_grace else None, expires_at),
    )


def _pods_after_end(observed: Observation, *, is_complete: bool, keeps_live: bool) -> DesiredPods:
    """The finished pods for their logs, and a coordinator that has the only copy of the result.

    What a pod reported is not lost with it once the status has it.
    """
    has_result = is_complete and not observed.job.is_durable
    return DesiredPods(
        coordinator=has_result and observed.pods.coordinator is not None,
        keeps_live=keeps_live,
        keeps_finished=True,
        ends_lingering=observed.job.is_finished and observed.pods.has_lingering,
    )


def _rejected(observed: Observation) -> DesiredState | None:
    """The spec asks for what this version cannot do, or another job has the name.

    A job that has started trains on without it, and only its condition says so.
    """
    job = observed.job
    rejection = observed.rejection
    if rejection is None or job.status.start_time:
        return None
    return DesiredState(
        phase=Phase.PENDING,
        conditions=(condition(ConditionType.ACCEPTED, "False", *rejection),),
        release=rejection.message,
    )


def _ended(observed: Observation) -> DesiredState | None:
    """Training is complete, or has failed for good."""
    if (final := observed.final_message) is not None:
        reason, message = "TrainingComplete", messages.training_complete(final.metrics)
        if final.error:
            reason, message = TRAINING_DIVERGED, messages.training_diverged(final.error)
        return _end(observed, ConditionType.COMPLETE, reason, message, final)
    if reason := observed.record.fatal_reason:
        return _end(observed, ConditionType.FAILED, reason, _fatal_message(observed))
    return None


def _fatal_message(observed: Observation) -> str:
    record = observed.record
    failure = record.fatal_failure.message if record.fatal_failure else ""
    if record.fatal_reason == "TooManyRestarts":
        return messages.too_many_restarts(observed.job.spec.failure.max_restarts, failure)
    return failure


def _past_deadline(observed: Observation) -> DesiredState | None:
    if not observed.is_past(observed.active_deadline):
        return None
    message = messages.deadline_exceeded(observed.job.spec.active_deadline_seconds)
    return _end(observed, ConditionType.FAILED, "DeadlineExceeded", message)


def _end(
    observed: Observation,
    type_: ConditionType,
    reason: str,
    message: str,
    final: TerminationMessage | None = None,
) -> DesiredState:
    """The state of a job that ends now."""
    is_complete = type_ is ConditionType.COMPLETE
    grace_until = observed.now + observed.timeouts.finish_grace if is_complete else None
    expires_at, written_at = observed.expiry(observed.now), observed.now + STATUS_WAIT
    return DesiredState(
        phase=Phase.COMPLETE if is_complete else Phase.FAILED,
        pods=_pods_after_end(observed, is_complete=is_complete, keeps_live=is_complete),
        conditions=(
            condition(type_, "True", reason, message),
            *idle_conditions(observed.job, reason),
            condition(ConditionType.DEGRADED, "False", reason),
            *ended_diverged_condition(observed, final),
        ),
        release=message,
        completed=True,
        termination_message=final,
        # No event follows from our own status that would have the job evaluated again.
        requeue_at=earliest(
            grace_until,
            expires_at and max(expires_at, written_at),
            written_at if observed.pods.has_lingering else None,
        ),
    )


# --- Jobs that go on ---


def _completing(observed: Observation) -> DesiredState | None:
    """Members have finished and the coordinator stores the result: only it is replaced."""
    if not observed.is_completing:
        return None
    return DesiredState(
        phase=Phase.RUNNING,
        pods=_pods_that_exit(observed),
        requeue_at=observed.record.retry_at,
    )


def _pods_that_exit(observed: Observation) -> DesiredPods:
    """The coordinator, and members that exit by themselves and are not replaced."""
    return DesiredPods(
        coordinator=True, replace_at=observed.record.retry_at, keeps_live=True, keeps_finished=True
    )


def _suspended(observed: Observation) -> DesiredState | None:
    """Suspended, or saving its state first."""
    if not observed.job.spec.suspend:
        return None
    if observed.can_save and not observed.is_past(observed.save_deadline):
        return _saving(observed)
    keeps_coordinator = observed.must_keep_coordinator
    message = messages.suspended(keeps_coordinator=keeps_coordinator)
    return DesiredState(
        phase=Phase.SUSPENDED,
        pods=DesiredPods(coordinator=keeps_coordinator),
        conditions=(
            accepted_condition(observed),
            condition(ConditionType.ADMITTED, "False", "Suspended"),
            *idle_conditions(observed.job, "Suspended"),
            condition(ConditionType.SUSPENDED, "True", "Requested", message),
            condition(ConditionType.DEGRADED, "False", "Suspended"),
            durability_condition(observed),
        ),
        suspend=True,
        release=messages.SUSPENDED,
    )


def _saving(observed: Observation) -> DesiredState:
    return DesiredState(
        phase=Phase.SUSPENDING,
        pods=_pods_that_exit(observed),
        conditions=(
            condition(ConditionType.SUSPENDED, "Unknown", "Checkpointing", messages.SAVING),
        ),
        suspend=True,
        requeue_at=observed.save_deadline,
    )


def _waiting(observed: Observation) -> DesiredState | None:
    """The scheduler has not admitted the job."""
    if observed.assignment.desired:
        return None
    return DesiredState(
        phase=Phase.WAITING,
        pods=DesiredPods(coordinator=observed.must_keep_coordinator),
        conditions=(
            accepted_condition(observed),
            *waiting_conditions(observed.assignment),
            unsuspended_condition(observed),
            durability_condition(observed),
        ),
    )


def _start_timed_out(observed: Observation) -> DesiredState | None:
    """An admitted job that is not running by its deadline gives its GPUs back."""
    deadline = observed.start_deadline
    if deadline is None or observed.now < deadline:
        return None
    message = start_failed_message(observed)
    return DesiredState(
        phase=Phase.WAITING,
        pods=DesiredPods(coordinator=observed.must_keep_coordinator),
        conditions=(
            accepted_condition(observed),
            condition(ConditionType.ADMITTED, "False", "StartTimedOut", message),
            *idle_conditions(observed.job, "NotAdmitted"),
            condition(ConditionType.DEGRADED, "True", "StartTimedOut", message),
        ),
        release=message,
        refuse_start=True,
    )


def _running(observed: Observation) -> DesiredState:
    """Admitted: starting, running or rescaling."""
    phase = observed.running_phase
    record, now = observed.record, observed.now
    tried_again = (failure.retry_time for failure in record.left_out_workers(now))
    times = (record.retry_at, observed.start_deadline, next_check(observed), *tried_again)
    return DesiredState(
        phase=phase,
        pods=_all_pods(observed),
        conditions=(
            accepted_condition(observed),
            condition(ConditionType.ADMITTED, "True", "Admitted", observed.assignment.message),
            running_condition(observed, phase),
            *rescaling_conditions(observed, phase),
            unsuspended_condition(observed),
            durability_condition(observed),
            reachable_condition(observed),
            degraded_condition(observed, phase),
            *diverged_condition(observed),
        ),
        started=True,
        trains=observed.is_training,
        requeue_at=earliest(*(t for t in times if t and t > now)),
    )


def _all_pods(observed: Observation) -> DesiredPods:
    """The coordinator, and all workers or parties of the assignment."""
    return DesiredPods(
        coordinator=True,
        members=observed.desired_members,
        member_role=observed.job.member_role,
        replace_at=observed.record.retry_at,
        retry_times=observed.record.retry_times,
        replace_coordinator=must_replace(observed),
    )
