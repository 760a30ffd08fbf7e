"""The messages that people read in conditions and failures, made from the facts of the rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from trainyard.api.jobs import format_time
from trainyard.api.names import Key, MemberId
from trainyard.api.pods import Pod
from trainyard.api.status import WorkerFailure
from trainyard_trainer.contract.env import COORDINATOR_PORT, WIRE_VERSION, Role
from trainyard_trainer.contract.exits import TerminationMessage

MAX_NAMES = 10
"""Parties that a message names."""
MAX_QUOTE = 600
"""Characters quoted of an answer of the API server."""
MAX_WAITING_QUOTE = 300
"""Characters quoted of a kubelet's or kube-scheduler's message."""
MAX_LOG_TAIL = 300
"""Characters quoted of the log of a process that ended without a termination message."""

STATE_IN_PODS = (
    "Without spec.state.claimName the state lives in the pods: it survives the loss of any "
    "one of them, not of all."
)
SAVING, SUSPENDED = "Saving the state first.", "Suspended."
JOB_ENDED = "The job has ended."
_KEEP = "With spec.state.claimName, a job's state outlives its pods."
RESULT_LOST = (
    f"The coordinator's pod is gone, and with it the only copy of the result. {_KEEP} Fetch a "
    "result before its pod is deleted."
)


def orphaned_pod(key: Key, pod: Pod) -> str:
    """That nobody looks after a pod any more."""
    return (
        f"{key.kind} {key.name} is gone and this pod has no owner, as after a deletion with "
        "--cascade=orphan: nothing replaces or deletes it, and it holds what it requests. Delete "
        f"it once it is not needed: kubectl delete pod --namespace {pod.namespace} {pod.name}"
    )


# --- Failures ---


def pod_failure(pod: Pod) -> str:
    """Which pod failed, how, and what helps."""
    who = pod.role if pod.role == Role.COORDINATOR else f"{pod.role} {pod.member}"
    subject = f"{who} (pod {pod.name})"
    if pod.is_disrupted:
        return f"{subject} was ended by the cluster ({pod.reason or 'disruption'})."
    if pod.reason == "OOMKilled":
        return (
            f"{subject} was killed for exceeding its memory limit (OOMKilled, exit code "
            f"{pod.exit_code}): raise spec.{_resources_field(pod)}.limits.memory or lower "
            "training.batchSize."
        )
    error = _error(pod)
    code = "without an exit code" if pod.exit_code is None else f"with exit code {pod.exit_code}"
    details = [pod.reason] if pod.reason not in ("", "Error") else []
    if not error:
        details.append("no termination message")
    suffix = f" ({', '.join(details)})" if details else ""
    return f"{subject} failed {code}{suffix}{error and ': ' + error}"


def _error(pod: Pod) -> str:
    """The error of the termination message, else the tail of the log."""
    message = TerminationMessage.decode(pod.termination_message)
    if message and message.error:
        return message.error
    return pod.termination_message.strip()[-MAX_LOG_TAIL:]


def _resources_field(pod: Pod) -> str:
    """The field of the spec that sets a pod's resources."""
    if pod.role == Role.PARTY:
        return f"parties[{pod.party}].resources"
    return "workers.resources" if pod.role == Role.WORKER else "coordinator.resources"


def too_many_restarts(max_restarts: int, last: str) -> str:
    """Why a job is not restarted after its last failure, whose message is `last`."""
    return f"Failed more often than spec.failure.maxRestarts={max_restarts}; last: {last}"


def too_few_parties(left_out: Sequence[str], quorum: int, last: str) -> str:
    """Why a federation cannot go on, from the parties that failed for good."""
    return (
        f"Left out after their failures: {_named(left_out)}; those that remain are fewer than "
        f"spec.rounds.minParties={quorum}. Last: {last}"
    )


def party_left_out(party: str, retry_at: str, last: str) -> str:
    """That rounds go on without a party, and until when."""
    return f"Party {party} is left out and tried again at {retry_at}: {last}"


def workers_left_out(failures: Sequence[WorkerFailure]) -> str:
    """Which workers the others train without, until when, and why the first of them."""
    noun = "Worker" if len(failures) == 1 else "Workers"
    verb = "is" if len(failures) == 1 else "are"
    first = failures[0]
    retry_at = format_time(min(failure.retry_time for failure in failures))
    return (
        f"{noun} {_named([failure.index for failure in failures])} {verb} left out, and the others "
        f"train on; tried again at {retry_at}: {first.message}"
    )


def ended_early(pod: Pod) -> str:
    """That a party ended as if training were complete."""
    return (
        f"party {pod.party} (pod {pod.name}) reports that training is complete, which neither the "
        "aggregator nor most of the other parties do."
    )


# --- Pods that start, join or are missing ---


def pod_waiting(pod: Pod, image: str) -> str:
    """Why a pod cannot start; `image` is its image, with the field that names it."""
    hint = {
        "ErrImagePull": f"{image} cannot be pulled",
        "ImagePullBackOff": f"{image} cannot be pulled",
        "InvalidImageName": f"{image} is not an image name",
        "ErrImageNeverPull": f"{image} is not on the node",
        "Unschedulable": "no node takes it",
        "FailedScheduling": "no node takes it",
        "FailedMount": "a volume cannot be mounted",
        "FailedMapVolume": "a volume cannot be mounted",
        "FailedAttachVolume": "a volume cannot be attached to its node",
        "FailedCreatePodSandBox": "its network cannot be set up",
    }.get(pod.waiting_reason, "it does not start")
    quote = pod.waiting_message[:MAX_WAITING_QUOTE]
    return f"Pod {pod.name}: {hint} ({pod.waiting_reason}: {quote})."


def starting(role: Role, running: int, desired: int, quorum: int) -> str:
    """How many of the members run."""
    if role is Role.PARTY:
        return f"{running} of {desired} parties run, {quorum} are needed."
    return f"{running} of {desired} workers run."


def start_timed_out(timeout: timedelta, cause: str) -> str:
    """Why a job that was admitted has to give its GPUs back."""
    cause = cause or "its pods did not all start"
    return f"Not running {_minutes(timeout)} after it got its GPUs: {cause}"


def start_blocked(cause: str) -> str:
    """Why a job gives its GPUs back without waiting for the whole start timeout."""
    return f"It cannot start, and waiting does not help: {cause}"


def rescaling(desired: int) -> str:
    """That pods are created or deleted for another number of workers."""
    return f"On the way to {desired} workers."


def joining(desired: int, workers_by_state: Mapping[str, int]) -> str:
    """That the pods run, and not all workers step together yet."""
    states = ", ".join(f"{n} {state}" for state, n in sorted(workers_by_state.items()) if n)
    return f"On the way to {desired} workers: {states or 'none has reported yet'}."


def parties_missing(
    missing: Sequence[MemberId], cause: str, left_out: Sequence[MemberId] = ()
) -> str:
    """Which parties do not take part, which of them are left out, and why, if it is known."""
    noun = "party is" if len(missing) == 1 else "parties are"
    after = f" Left out after their failures: {_named(left_out)}." if left_out else ""
    return (
        f"{len(missing)} {noun} missing: {_named(missing)}; rounds continue with the others."
        f"{after} {cause}"
    ).strip()


def _named(members: Sequence[MemberId]) -> str:
    more = ", …" if len(members) > MAX_NAMES else ""
    return ", ".join(str(member) for member in members[:MAX_NAMES]) + more


REPLACED_ONCE = "It was replaced once and is not again until it is reachable."
NOT_REPLACED = "It is not replaced, as it may hold the only copy of the state."


def replaced_after(timeout: timedelta) -> str:
    """That another coordinator takes over if nothing changes."""
    return f"It is replaced if this lasts for {_minutes(timeout)}."


def no_answer(remedy: str) -> str:
    """That the operator gets no metrics from the coordinator, and what helps."""
    return (
        "The coordinator does not answer the operator: check its log, and that network policies "
        f"let the operator reach its port {COORDINATOR_PORT}. {remedy}"
    )


def no_members(role: Role, remedy: str) -> str:
    """That no member is connected to the coordinator, and what helps."""
    members = "parties" if role is Role.PARTY else "workers"
    return (
        f"The {members} run, and none is connected to the coordinator: check their logs, and that "
        f"network policies let them resolve its name and reach its port {COORDINATOR_PORT}. "
        f"{remedy}"
    )


def stalled(since: datetime, usual_seconds: float | None) -> str:
    """That no step has been made since a time, and what helps."""
    usual = "" if usual_seconds is None else f"; a step usually takes {usual_seconds:.3g} s"
    return (
        f"The workers run and have made no step since {since:%Y-%m-%dT%H:%M:%SZ}{usual}. Look at "
        "their logs: a data loader, a collective or a long evaluation may block them all. One that "
        "alone keeps the others waiting is left out; what blocks them all, only you can end."
    )


def not_stored(failures: int, checkpoint_step: int) -> str:
    """That checkpoints cannot be stored, and what that may cost."""
    last = f"step {checkpoint_step}" if checkpoint_step >= 0 else "the beginning"
    return (
        f"The last {failures} attempts to store the state have failed; the coordinator's log says "
        f"why. Training goes on and storing is tried again, but should all workers be lost, the "
        f"job starts from {last}."
    )


def plan_refused(reason: str) -> str:
    """That the coordinator does not accept the operator's Plan, with its reason."""
    return (
        f"The coordinator refuses the Plan: {reason}. The job trains on by the last one that it "
        "accepted; it is sent again after each reading of the metrics."
    )


def child_refused(answer: str) -> str:
    """That a child could not be created, with the answer of the API server."""
    return f"The API server refused a child of this job: {answer[:MAX_QUOTE]}"


def scheduling_failed(error: str) -> str:
    """That the scheduler cannot decide on a job, and what helps."""
    return (
        f"The scheduler fails on this job and leaves it out; its workers stay as they are: "
        f"{error[:MAX_QUOTE]}. This is a defect of the operator; its log has the details. Changing "
        "or recreating the job may help."
    )


# --- Operator and trainer image of different releases ---


def coordinator_mismatch(wire: int) -> str:
    """That a running coordinator speaks another wire version, and what helps."""
    return (
        f"The trainer image speaks wire version {wire}, this operator {WIRE_VERSION}. The job "
        "trains on as it is and gets no Plan: run the operator of the image's release, or "
        "recreate the job with an image of this release."
    )


def start_mismatch(error: str, retry_after: timedelta) -> str:
    """That pods fail with `error`, as they do not understand this operator, and what helps."""
    return (
        f"{error.rstrip('.')}. This is not held against the job; its pods are tried again every "
        f"{_minutes(retry_after)}. Recreate the job with an image of this operator's release, or "
        "run the operator of the image's release."
    )


# --- The state, and the end ---


def state_kept(claim_name: str) -> str:
    """Where the state outlives the pods."""
    return f"State is kept in the claim {claim_name}."


def state_lost(unit: str, progress: int) -> str:
    """That no pod is left which held the state of this step or round."""
    return f"No pod is left that held the state of {unit} {progress}: training begins anew. {_KEEP}"


def stored_state_lost(unit: str, stored: int, found: int) -> str:
    """That a claim does not have what had been stored in it."""
    newest = f"that of {unit} {found}" if found else "none"
    return (
        f"The state of {unit} {stored} had been stored in the claim, and the new coordinator finds "
        f"{newest} there: training goes back to {unit} {found}, unless a worker still holds the "
        "state. Was the claim or its volume emptied or replaced?"
    )


def suspended(*, keeps_coordinator: bool) -> str:
    """Which pods a suspended job has."""
    kept = (
        " The coordinator stays: without spec.state.claimName it holds the only copy of the state."
        if keeps_coordinator
        else ""
    )
    return f"spec.suspend is true; the GPUs are free.{kept}"


def training_complete(evaluation: Mapping[str, float]) -> str:
    """That training is complete, with its final metrics."""
    figures = ", ".join(f"{name} {value:.4g}" for name, value in sorted(evaluation.items()))
    return f"Training is complete{figures and ': ' + figures}."


def training_diverged(error: str) -> str:
    """That training is complete and its model cannot be used, with the trainer's sentence."""
    return f"Training is complete, but not a success: {error.rstrip('.')}."


def diverging(steps: int) -> str:
    """That the loss of the last `steps` steps is not finite, and what helps."""
    return (
        f"Training goes on, but {non_finite_loss(steps)}. No such state replaces a checkpoint that "
        "is finite."
    )


def non_finite_loss(steps: int) -> str:
    """That training has diverged, and what helps."""
    last = "step" if steps == 1 else f"{steps} steps"
    return (
        f"it has diverged: the loss of the last {last} is not finite; try a lower learning rate, "
        "or clip_norm"
    )


def deadline_exceeded(seconds: int | None) -> str:
    """That the job ran longer than its spec allows."""
    return f"The job ran longer than spec.activeDeadlineSeconds={seconds}."


def _minutes(span: timedelta) -> str:
    seconds = span.total_seconds()
    return f"{seconds:g} s" if seconds < 60 else f"{seconds / 60:g} min"
