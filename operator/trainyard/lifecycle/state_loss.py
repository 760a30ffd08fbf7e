"""Whether the only copy of a job's state is gone, so that training begins anew."""

from __future__ import annotations

from trainyard.api.conditions import Condition, ConditionType, is_true
from trainyard.api.jobs import Status
from trainyard.lifecycle import messages
from trainyard.lifecycle.observation import Observation
from trainyard_trainer.contract.env import Role
from trainyard_trainer.contract.exits import Result

STATE_LOST = "StateLost"


def durability_condition(observed: Observation) -> Condition:
    """Whether the state outlives the pods, and whether it already went with them."""
    job, type_ = observed.job, ConditionType.STATE_DURABLE
    if job.is_durable:
        kept = messages.state_kept(job.spec.state.claim_name)
        return Condition(type=type_, status="True", reason="Claim", message=kept)
    before = observed.condition(type_)
    if before is not None and before.reason == STATE_LOST and not _trains_again(observed):
        return before
    if lost := _loss_message(observed):
        return _lost(lost)
    return Condition(type=type_, status="False", reason="NoClaim", message=messages.STATE_IN_PODS)


def result_condition(observed: Observation) -> tuple[Condition, ...]:
    """That the result of a complete job is gone with its coordinator; nothing while it is there."""
    pods = observed.pods
    is_there = pods.coordinator or pods.ended(Result.COMPLETE, Role.COORDINATOR)
    return () if observed.job.is_durable or is_there else (_lost(messages.RESULT_LOST),)


def stored_state_lost(before: Status, after: Status) -> str:
    """What a coordinator did not find in the claim that an earlier one had stored; empty if all.

    A coordinator reports from the first time on what it found.
    """
    old, new = before.training, after.training
    if old is None or new is None or new.term <= old.term or new.stored >= old.stored:
        return ""
    if not is_true(after.conditions, ConditionType.STATE_DURABLE):
        return ""  # without a claim the condition says so
    return messages.stored_state_lost(new.unit, old.stored, new.stored)


def _lost(message: str) -> Condition:
    type_ = ConditionType.STATE_DURABLE
    return Condition(type=type_, status="False", reason=STATE_LOST, message=message)


def _loss_message(observed: Observation) -> str:
    """Which state went with the last pod that held it, of a job without a claim; empty if none."""
    pods, training = observed.pods, observed.job.status.training
    has_holder = pods.live if observed.job.state_role is Role.WORKER else pods.coordinator
    if has_holder or training is None or not training.progress:
        return ""
    return messages.state_lost(training.unit, training.progress)


def _trains_again(observed: Observation) -> bool:
    """Whether members run with the present coordinator, which has reported since."""
    status = observed.job.status
    has_reported = status.training is not None and status.training.term == observed.pods.term
    return has_reported and is_true(status.conditions, ConditionType.RUNNING)
