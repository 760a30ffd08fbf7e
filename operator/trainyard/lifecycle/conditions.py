"""The conditions of a job that is not over: status and reason of each from what is observed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from trainyard.api.conditions import RESUMED, Condition, ConditionStatus, ConditionType
from trainyard.api.jobs import Assignment, Job
from trainyard.api.reasons import Reason
from trainyard.api.status import PodFailure
from trainyard.lifecycle import messages
from trainyard.lifecycle.causes import is_hopeless
from trainyard.lifecycle.desired import DesiredState, Phase
from trainyard.lifecycle.observation import Observation
from trainyard.lifecycle.reachability import is_degraded, trouble_of, unreachable_message
from trainyard.lifecycle.stalling import stalled_message
from trainyard_trainer.contract.env import Role
from trainyard_trainer.contract.exits import Exit
from trainyard_trainer.contract.text import printable

MAX_MESSAGE = 32_768
"""Characters of a message, as `metav1.Condition` allows; a decision's may name many selectors."""

NO_DEVICE = "NoDevice"
"""The reason of `Degraded` where a pod requests a GPU and PyTorch finds none in it."""

_RUNNING_REASONS = {Role.WORKER: "WorkersRunning", Role.PARTY: "PartiesRunning"}


def condition(
    type_: ConditionType, status: ConditionStatus, reason: str, message: str = ""
) -> Condition:
    """A condition; when it became true is filled in where it is merged."""
    message = printable(message)[:MAX_MESSAGE]
    return Condition(type=type_, status=status, reason=reason, message=message)


def accepted_condition(observed: Observation) -> Condition:
    """Whether this version can do all that the spec asks for."""
    if rejection := observed.rejection:
        return condition(ConditionType.ACCEPTED, "False", *rejection)
    return condition(ConditionType.ACCEPTED, "True", "Valid")


def unsuspended_condition(observed: Observation) -> Condition:
    """That the job is not suspended; since when counts in the queue if it was."""
    before = observed.condition(ConditionType.SUSPENDED)
    was_suspended = before is not None and (before.status != "False" or before.reason == RESUMED)
    reason = RESUMED if was_suspended else "NotRequested"
    return condition(ConditionType.SUSPENDED, "False", reason)


def running_condition(observed: Observation, phase: Phase) -> Condition:
    """Whether the desired members run; if not, why not."""
    job = observed.job
    if phase is not Phase.STARTING:
        return condition(ConditionType.RUNNING, "True", _RUNNING_REASONS[job.member_role])
    message = waiting_message(observed) or messages.starting(
        job.member_role,
        running=len(observed.running_members),
        desired=observed.assignment.desired,
        quorum=job.quorum,
    )
    reason = "Provisioning" if observed.is_provisioning else "Starting"
    return condition(ConditionType.RUNNING, "False", reason, message)


def waiting_conditions(assignment: Assignment) -> tuple[Condition, ...]:
    """Why a job is not admitted; why its last start failed stays in its status meanwhile."""
    reason = assignment.reason or "Pending"
    conditions = (
        condition(ConditionType.ADMITTED, "False", reason, assignment.message),
        condition(ConditionType.RUNNING, "False", "NotAdmitted"),
        condition(ConditionType.COORDINATOR_REACHABLE, "Unknown", "NotAdmitted"),
    )
    if reason == Reason.START_TIMED_OUT:
        return conditions
    return (*conditions, condition(ConditionType.DEGRADED, "False", "NotAdmitted"))


def idle_conditions(job: Job, reason: str) -> tuple[Condition, ...]:
    """A job without running members neither trains nor rescales, nor is its coordinator asked."""
    idle = (
        condition(ConditionType.RUNNING, "False", reason),
        condition(ConditionType.COORDINATOR_REACHABLE, "Unknown", reason),
    )
    if not job.can_rescale:
        return idle
    return (*idle, condition(ConditionType.RESCALING, "False", reason))


def rescaling_conditions(observed: Observation, phase: Phase) -> tuple[Condition, ...]:
    """Whether the number of workers is changing; a federation has no such condition."""
    return (_rescaling_condition(observed, phase),) if observed.job.can_rescale else ()


def _rescaling_condition(observed: Observation, phase: Phase) -> Condition:
    desired, report = observed.assignment.desired, observed.report
    if phase is Phase.RESCALING:
        return condition(
            ConditionType.RESCALING, "True", "PodsChanging", messages.rescaling(desired)
        )
    if phase is Phase.RUNNING and report is not None and report.active_workers != desired:
        message = messages.joining(desired, report.members)
        return condition(ConditionType.RESCALING, "True", "WorkersJoining", message)
    return condition(ConditionType.RESCALING, "False", "Steady")


def degraded_condition(observed: Observation, phase: Phase) -> Condition:
    """Whether something is wrong that the operator is repairing, or cannot repair."""
    if mismatch := _mismatch_message(observed):
        return condition(ConditionType.DEGRADED, "True", "WireMismatch", mismatch)
    failures = observed.record.failures
    waiting = "" if observed.is_provisioning else waiting_message(observed)
    last = failures[-1].message if failures else ""
    is_federation = not observed.job.can_rescale
    if is_federation and phase is Phase.RUNNING and (missing := observed.missing_parties):
        left_out = observed.record.left_out
        cause = next((failure.message for failure in left_out.values()), waiting or last)
        message = messages.parties_missing(missing, cause, tuple(left_out))
        causes = [*left_out.values(), *failures[-1:]]
        return condition(ConditionType.DEGRADED, "True", _reason(causes, "PartiesMissing"), message)
    if waiting:
        return condition(ConditionType.DEGRADED, "True", "PodTrouble", waiting)
    if unfit := observed.record.left_out_workers(observed.now):
        message = messages.workers_left_out(unfit)
        reason = _reason(unfit, "WorkersLeftOut")
        return condition(ConditionType.DEGRADED, "True", reason, message)
    if failures and observed.lacks_pods:
        return condition(ConditionType.DEGRADED, "True", _reason(failures[-1:], "Replacing"), last)
    if _lacks_device(failures[-1:]) and observed.absent_members:
        return condition(ConditionType.DEGRADED, "True", NO_DEVICE, last)
    if observed.contact.refusal:
        message = messages.plan_refused(observed.contact.refusal)
        return condition(ConditionType.DEGRADED, "True", "PlanRefused", message)
    trouble = trouble_of(observed)
    if trouble is not None and is_degraded(observed, trouble):
        message = unreachable_message(observed, trouble)
        return condition(ConditionType.DEGRADED, "True", "CoordinatorUnreachable", message)
    if trouble is None and (message := stalled_message(observed)):
        return condition(ConditionType.DEGRADED, "True", "Stalled", message)
    report = observed.report
    if trouble is None and report is not None and report.consecutive_failed_writes:
        message = messages.not_stored(report.consecutive_failed_writes, report.checkpoint_step)
        return condition(ConditionType.DEGRADED, "True", "StateNotStored", message)
    return condition(ConditionType.DEGRADED, "False", "Healthy")


def _reason(failures: Sequence[PodFailure], otherwise: str) -> str:
    return NO_DEVICE if _lacks_device(failures) else otherwise


def _lacks_device(failures: Sequence[PodFailure]) -> bool:
    """Whether the first of the failures is that of a pod which found no GPU."""
    return bool(failures) and failures[0].exit_code == Exit.NO_DEVICE


def _mismatch_message(observed: Observation) -> str:
    """What to do when operator and trainer image are of different releases; empty if not."""
    report, mismatch = observed.report, observed.record.mismatch
    if report is not None and report.is_mismatched:
        return messages.coordinator_mismatch(report.wire)
    if mismatch is not None and observed.lacks_pods:
        return messages.start_mismatch(mismatch.message, observed.timeouts.retry_cap)
    return ""


def waiting_message(observed: Observation) -> str:
    """Why a pod cannot start; empty when none waits."""
    pod = observed.waiting_pod
    return messages.pod_waiting(pod, _named_image(observed)) if pod else ""


def _named_image(observed: Observation) -> str:
    """The image and where it is set."""
    job = observed.job
    field = "spec.image" if job.spec.image else "spec.image is not set, and the default"
    return f"{field} {job.image!r}"


def start_failed_message(observed: Observation) -> str:
    """Why a job that was admitted gives its GPUs back without having trained."""
    refusal, mismatch = observed.refusal, observed.record.mismatch
    refused = messages.child_refused(refusal.message) if refusal else ""
    if observed.start_blocked_since is not None:
        pod = observed.waiting_pod
        is_pod = pod is not None and is_hopeless(pod)
        return messages.start_blocked(waiting_message(observed) if is_pod else refused)
    cause = waiting_message(observed) or refused or (mismatch.message if mismatch else "")
    return messages.start_timed_out(observed.timeouts.start_timeout, cause)


def with_refusal(desired: DesiredState, answer: str) -> DesiredState:
    """The same state, `Degraded` because the API server refused a child of the job."""
    return _degraded(desired, "ChildRefused", messages.child_refused(answer))


def with_scheduling_failure(desired: DesiredState, error: str) -> DesiredState:
    """The same state, `Degraded` because the scheduler fails on the job, and leaves it out."""
    return _degraded(desired, "SchedulingFailed", messages.scheduling_failed(error))


def _degraded(desired: DesiredState, reason: str, message: str) -> DesiredState:
    others = tuple(c for c in desired.conditions if c.type != ConditionType.DEGRADED)
    degraded = condition(ConditionType.DEGRADED, "True", reason, message)
    return replace(desired, conditions=(*others, degraded))
