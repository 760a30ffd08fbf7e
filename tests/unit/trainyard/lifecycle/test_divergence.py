"""Training whose loss is not finite: the condition Diverged, and how such a job ends."""

from __future__ import annotations

import msgspec
import pytest

from tests.support.jobs import (
    NOW,
    condition,
    condition_of,
    conditions_of,
    coordinator,
    ending,
    has_run,
    make_job,
    observe,
    worker,
)
from tests.support.scenarios.scenario import reported
from trainyard.api.conditions import merge_conditions
from trainyard.api.jobs import DistributedJob
from trainyard.api.report import CoordinatorReport
from trainyard.api.status import DistributedJobStatus
from trainyard.lifecycle.desired import DesiredState
from trainyard.lifecycle.stages import evaluate
from trainyard.lifecycle.status import is_urgent
from trainyard_trainer.contract.exits import Result

SENTENCE = "training has diverged: the model is not finite"


def once_diverged() -> DistributedJob:
    status = has_run()
    status["conditions"].append(condition("Diverged", "True", "NonFiniteLoss"))
    return make_job(status=status)


def running(job: DistributedJob, report: CoordinatorReport | None) -> DesiredState:
    return evaluate(observe(job, coordinator(), worker(), report=report))


def test_a_loss_that_is_not_finite_is_a_condition_with_the_number_of_steps() -> None:
    desired = running(make_job(status=has_run()), reported(1, step=9, non_finite_steps=4))
    assert conditions_of(desired)["Diverged"] == ("True", "NonFiniteLoss")
    assert "the loss of the last 4 steps is not finite" in condition_of(desired, "Diverged").message
    assert conditions_of(desired)["Degraded"] == ("False", "Healthy")


def test_a_finite_loss_ends_the_condition_and_a_job_that_never_diverged_has_none() -> None:
    finite = reported(1, step=9)
    assert conditions_of(running(once_diverged(), finite))["Diverged"] == ("False", "FiniteLoss")
    assert "Diverged" not in conditions_of(running(make_job(status=has_run()), finite))


@pytest.mark.parametrize("report", [None, reported(1)], ids=["no report", "no step yet"])
def test_what_is_not_known_leaves_the_condition_as_it_was(report: CoordinatorReport | None) -> None:
    assert "Diverged" not in conditions_of(running(once_diverged(), report))


def test_another_number_of_steps_is_not_urgent() -> None:
    def status(steps: int) -> DistributedJobStatus:
        desired = running(make_job(status=has_run()), reported(1, step=9, non_finite_steps=steps))
        merged = merge_conditions([], desired.conditions, NOW, 1)
        return msgspec.structs.replace(DistributedJobStatus(), conditions=merged)

    assert not is_urgent(status(4), status(5))
    assert is_urgent(status(0), status(1))


def test_a_job_that_ends_diverged_says_so_instead_of_being_a_success() -> None:
    ended = coordinator(**ending(Result.COMPLETE, error=SENTENCE))
    desired = evaluate(observe(make_job(status=has_run()), ended))
    assert conditions_of(desired)["Complete"] == ("True", "TrainingDiverged")
    assert SENTENCE in condition_of(desired, "Complete").message
    assert conditions_of(desired)["Diverged"] == ("True", "NonFiniteLoss")


@pytest.mark.parametrize(
    ("steps", "error", "expected"),
    [
        pytest.param(0, SENTENCE, SENTENCE, id="said by a worker"),
        pytest.param(3, "", "the loss of the last 3 steps is not finite", id="shown by the loss"),
    ],
)
def test_a_coordinator_that_stays_for_its_result_ends_diverged_as_well(
    steps: int, error: str, expected: str
) -> None:
    report = reported(0, step=9, non_finite_steps=steps, outcome="Complete")
    left = worker(**ending(Result.COMPLETE, error=error))
    desired = evaluate(observe(make_job(status=has_run()), coordinator(), left, report=report))
    assert conditions_of(desired)["Complete"] == ("True", "TrainingDiverged")
    assert expected in condition_of(desired, "Complete").message


def test_a_job_that_recovered_before_its_end_is_a_success() -> None:
    desired = evaluate(observe(once_diverged(), coordinator(**ending(Result.COMPLETE))))
    assert conditions_of(desired)["Complete"] == ("True", "TrainingComplete")
    assert conditions_of(desired)["Diverged"] == ("False", "FiniteLoss")
