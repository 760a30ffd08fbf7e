"""The conditions of a job that is not over: each claim with its reason and a sentence."""

from __future__ import annotations

from dataclasses import replace

from trainyard.api.conditions import Condition, Truth, Type
from trainyard.api.jobs import FederatedJob, Job
from trainyard.api.validation import validate
from trainyard.lifecycle.desired import DesiredState, Phase
from trainyard.lifecycle.observation import (
    Observation,
    absent_members,
    quorum,
    running_members,
    trouble_of,
    wanted,
)
from trainyard_trainer.contract.env import WIRE_VERSION

_NAMED = 10
"""Parties that a sentence names."""


def condition(type_: Type, status: Truth, reason: str, message: str = "") -> Condition:
    """A condition; when it became true is filled in where it is merged."""
    return Condition(type=type_, status=status, reason=reason, message=message)


def accepted_condition(look: Observation) -> Condition:
    """Whether all that the spec asks for can be done."""
    if refused := validate(look.job.spec):
        return condition(Type.ACCEPTED, "False", *refused)
    return condition(Type.ACCEPTED, "True", "Valid")


def durability_condition(job: Job) -> Condition:
    """Whether the state outlives the pods, and what follows if not."""
    if job.is_durable:
        message = f"State is kept in the claim {job.spec.state.claim_name}."
        return condition(Type.STATE_DURABLE, "True", "Claim", message)
    message = (
        "Without spec.state.claimName the state lives in the pods: it survives the loss of any "
        "one of them, not of all."
    )
    return condition(Type.STATE_DURABLE, "False", "NoClaim", message)


def running_condition(look: Observation, phase: Phase) -> Condition:
    """Whether the wanted workers run; if not, why not."""
    is_federated = isinstance(look.job, FederatedJob)
    if phase is Phase.STARTING:
        message = trouble_of(look) or _so_far(look, is_federated)
        return condition(Type.RUNNING, "False", "Starting", message)
    if is_federated:
        return condition(Type.RUNNING, "True", "PartiesRunning")
    return condition(Type.RUNNING, "True", "WorkersRunning")


def _so_far(look: Observation, is_federated: bool) -> str:
    running, desired = running_members(look), look.scaling.desired
    if is_federated:
        return f"{running} of {desired} parties run, {quorum(look.job)} are needed."
    return f"{running} of {desired} workers run."


def idle_conditions(job: Job, reason: str) -> tuple[Condition, ...]:
    """That a job without workers or parties at work neither trains nor rescales, and why."""
    running = condition(Type.RUNNING, "False", reason)
    if isinstance(job, FederatedJob):
        return (running,)
    return (running, condition(Type.RESCALING, "False", reason))


def rescaling_conditions(look: Observation, phase: Phase) -> tuple[Condition, ...]:
    """Whether the number of workers is changing; a federation has none."""
    return () if isinstance(look.job, FederatedJob) else (_rescaling_condition(look, phase),)


def _rescaling_condition(look: Observation, phase: Phase) -> Condition:
    desired, report = look.scaling.desired, look.report
    if phase is Phase.RESCALING:
        return condition(
            Type.RESCALING, "True", "PodsChanging", f"On the way to {desired} workers."
        )
    if phase is Phase.RUNNING and report is not None and report.active_workers != desired:
        members = ", ".join(f"{n} {state}" for state, n in sorted(report.members.items()) if n)
        message = f"On the way to {desired} workers: {members or 'none has reported yet'}."
        return condition(Type.RESCALING, "True", "WorkersJoining", message)
    return condition(Type.RESCALING, "False", "Steady")


def degraded_condition(look: Observation, phase: Phase) -> Condition:
    """Whether something is wrong that the operator is working on, or cannot mend."""
    gone = [m for m in wanted(look) if m not in look.pods.members]
    is_short = bool(gone) or look.pods.coordinator is None
    if mismatch := _mismatch(look, is_short):
        return condition(Type.DEGRADED, "True", "WireMismatch", mismatch)
    if isinstance(look.job, FederatedJob) and phase is Phase.RUNNING and absent_members(look):
        return condition(Type.DEGRADED, "True", "PartiesMissing", _absence(look))
    if trouble := trouble_of(look):
        return condition(Type.DEGRADED, "True", "PodTrouble", trouble)
    if look.record.failures and is_short:
        return condition(Type.DEGRADED, "True", "Replacing", look.record.failures[-1].message)
    return condition(Type.DEGRADED, "False", "Healthy")


def _mismatch(look: Observation, is_short: bool) -> str:
    """That operator and trainer image do not understand each other, and what helps; or nothing."""
    if look.report is not None and look.report.is_mismatched:
        return (
            f"The trainer image speaks wire version {look.report.wire}, this operator "
            f"{WIRE_VERSION}. The job trains on as it is and gets no Plan: run the operator of the "
            "image's release, or create the job anew with an image of this release."
        )
    if look.record.mismatch and is_short:
        minutes = look.timeouts.retry_cap.total_seconds() / 60
        return (
            f"{look.record.mismatch.rstrip('.')}. This is not held against the job; its pods are "
            f"tried again every {minutes:g} min. Create the job anew with an image of this "
            "operator's release, or run the operator of the image's release."
        )
    return ""


def _absence(look: Observation) -> str:
    absent = [str(member) for member in absent_members(look)]
    named = ", ".join(absent[:_NAMED]) + (", …" if len(absent) > _NAMED else "")
    last = look.record.failures[-1].message if look.record.failures else ""
    why = trouble_of(look) or last
    noun = "party is" if len(absent) == 1 else "parties are"
    return f"{len(absent)} {noun} not there: {named}; rounds go on with the others. {why}".strip()


def with_refusal(verdict: DesiredState, message: str) -> DesiredState:
    """The verdict of a job whose children the API server refused: it says so."""
    told = f"The API server refused a child of this job: {message[:600]}"
    others = tuple(c for c in verdict.conditions if c.type != Type.DEGRADED)
    return replace(
        verdict, conditions=(*others, condition(Type.DEGRADED, "True", "ChildRefused", told))
    )
