"""The conditions of a job that is not over: each claim with its reason and a sentence."""

from __future__ import annotations

from dataclasses import replace

from trainyard.api.conditions import Condition, Truth, Type
from trainyard.api.jobs import DistributedJob
from trainyard.api.status import Failed
from trainyard.policy.look import Look, running_workers, trouble_of
from trainyard.policy.support import unsupported
from trainyard.policy.verdict import Phase, Verdict
from trainyard_trainer.contract import WIRE_VERSION


def claim(type_: Type, status: Truth, reason: str, message: str = "") -> Condition:
    """A condition; when it became true is filled in where it is merged."""
    return Condition(type=type_, status=status, reason=reason, message=message)


def accepted(look: Look) -> Condition:
    """Whether all that the spec asks for is supported."""
    if reason := unsupported(look.job.spec):
        return claim(Type.ACCEPTED, "False", "NotSupportedYet", reason)
    return claim(Type.ACCEPTED, "True", "Valid")


def durability(job: DistributedJob) -> Condition:
    """Whether the state outlives the pods, and what follows if not."""
    if job.is_durable:
        message = f"State is kept in the claim {job.spec.state.claim}."
        return claim(Type.STATE_DURABLE, "True", "Claim", message)
    message = (
        "Without spec.state.claim the state lives in the pods: it survives the loss of any one of "
        "them, not of all."
    )
    return claim(Type.STATE_DURABLE, "False", "NoClaim", message)


def running_claim(look: Look, phase: Phase) -> Condition:
    """Whether the wanted workers run; if not, why not."""
    running, wanted = running_workers(look), look.scaling.desired
    if phase is Phase.STARTING:
        message = trouble_of(look) or f"{running} of {wanted} workers run."
        return claim(Type.RUNNING, "False", "Starting", message)
    return claim(Type.RUNNING, "True", "WorkersRunning")


def rescaling_claim(look: Look, phase: Phase) -> Condition:
    """Whether the number of workers is changing."""
    wanted, report = look.scaling.desired, look.report
    if phase is Phase.RESCALING:
        return claim(Type.RESCALING, "True", "PodsChanging", f"On the way to {wanted} workers.")
    if phase is Phase.RUNNING and report is not None and report.active_workers != wanted:
        members = ", ".join(f"{n} {state}" for state, n in sorted(report.members.items()) if n)
        message = f"On the way to {wanted} workers: {members or 'none has reported yet'}."
        return claim(Type.RESCALING, "True", "WorkersJoining", message)
    return claim(Type.RESCALING, "False", "Steady")


def degraded_claim(look: Look, failures: list[Failed]) -> Condition:
    """Whether something is wrong that the operator is working on, or cannot mend."""
    if look.report is not None and look.report.wire not in (0, WIRE_VERSION):
        message = (
            f"The trainer image speaks wire version {look.report.wire}, this operator "
            f"{WIRE_VERSION}: use images of the same release."
        )
        return claim(Type.DEGRADED, "True", "WireMismatch", message)
    if trouble := trouble_of(look):
        return claim(Type.DEGRADED, "True", "PodTrouble", trouble)
    gone = [i for i in range(look.scaling.desired) if i not in look.roster.workers]
    if failures and (gone or look.roster.coordinator is None):
        return claim(Type.DEGRADED, "True", "Replacing", failures[-1].message)
    return claim(Type.DEGRADED, "False", "Healthy")


def with_refusal(verdict: Verdict, message: str) -> Verdict:
    """The verdict of a job whose children the API server refused: it says so."""
    told = f"The API server refused a child of this job: {message[:600]}"
    others = tuple(c for c in verdict.claims if c.type != Type.DEGRADED)
    return replace(verdict, claims=(*others, claim(Type.DEGRADED, "True", "ChildRefused", told)))
