"""Whether training has diverged: its loss, or at the end its model, is not finite."""

from __future__ import annotations

from trainyard.api.conditions import Condition, ConditionType
from trainyard.lifecycle import messages
from trainyard.lifecycle.conditions import condition
from trainyard.lifecycle.observation import Observation
from trainyard_trainer.contract.exits import TerminationMessage

TRAINING_DIVERGED = "TrainingDiverged"
"""The reason of `Complete=True` when the model cannot be used."""


def diverged_condition(observed: Observation) -> tuple[Condition, ...]:
    """Whether the loss of the last steps is not finite; nothing for a job that never diverged."""
    report = observed.report
    if report is None or not report.step:
        return ()  # a coordinator that has just started knows of no loss
    if report.non_finite_steps:
        return (_diverged(messages.diverging(report.non_finite_steps)),)
    return _recovered(observed)


def ended_diverged_condition(
    observed: Observation, final: TerminationMessage | None
) -> tuple[Condition, ...]:
    """Whether a complete job's model is unusable; as it was for a job that has failed."""
    if final is None:
        return ()
    return (_diverged(final.error),) if final.error else _recovered(observed)


def _diverged(message: str) -> Condition:
    return condition(ConditionType.DIVERGED, "True", "NonFiniteLoss", message)


def _recovered(observed: Observation) -> tuple[Condition, ...]:
    if observed.condition(ConditionType.DIVERGED) is None:
        return ()
    return (condition(ConditionType.DIVERGED, "False", "FiniteLoss"),)
