"""What both images agree on survives the trip, and nothing else does."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainyard_trainer.contract.config import Direction, JobConfig, Target
from trainyard_trainer.contract.env import TERMINATION_BYTES
from trainyard_trainer.contract.exits import Result, TerminationMessage
from trainyard_trainer.contract.plan import Plan

text = st.text(max_size=6000)


@given(error=text, traceback=text, step=st.none() | st.integers(0, 10**12))
def test_last_words_fit_and_come_back(error: str, traceback: str, step: int | None) -> None:
    words = TerminationMessage(result=Result.FAILED, error=error, traceback=traceback, step=step)
    message = words.encode()
    assert len(message.encode()) <= TERMINATION_BYTES
    again = TerminationMessage.decode(message)
    assert again is not None
    assert again.step == step
    assert traceback.endswith(again.traceback)
    assert error.endswith(again.error)


@pytest.mark.parametrize("message", ["", "Killed", "[]", "{}", '{"result": "Odd"}', "null", "3"])
def test_other_last_words_are_not_taken_for_ours(message: str) -> None:
    assert TerminationMessage.decode(message) is None


@given(
    generation=st.integers(1, 2**40),
    workers=st.integers(1, 10**6),
    batch_size=st.none() | st.integers(1, 10**9),
    suspend=st.booleans(),
)
def test_a_plan_comes_back_as_it_was(
    generation: int, workers: int, batch_size: int | None, suspend: bool
) -> None:
    plan = Plan(generation=generation, workers=workers, batch_size=batch_size, suspend=suspend)
    assert Plan.decode(plan.encode()) == plan


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"wire": 2}, "wire version 2"),
        ({"generation": 0}, "plan.generation"),
        ({"workers": 0}, "plan.workers"),
        ({"batch_size": 0}, "plan.batch_size"),
        ({"colour": 1}, "colour"),
    ],
)
def test_a_wrong_plan_is_refused_by_name(change: dict[str, int], says: str) -> None:
    values = json.loads(Plan(generation=1, workers=1).encode())
    with pytest.raises(ValueError, match=says):
        Plan.decode(json.dumps({**values, **change}))


def test_a_configuration_comes_back_as_it_was() -> None:
    config = JobConfig(
        task="m:C",
        args={"hidden": 3, "name": "ö"},
        target=Target(metric="eval/loss", value=0.5, direction=Direction.MIN),
        durable=True,
    )
    assert JobConfig.decode(config.encode()) == config


@pytest.mark.parametrize("body", ["[]", '{"task": "m:C", "colour": 1}', "{}"])
def test_a_wrong_configuration_is_refused(body: str) -> None:
    with pytest.raises(ValueError, match=r"configuration|JobConfig"):
        JobConfig.decode(body)


@pytest.mark.parametrize(
    ("mode", "value", "reached"),
    [
        (Direction.MAX, 0.9, True),
        (Direction.MAX, 0.8, False),
        (Direction.MIN, 0.9, True),
        (Direction.MIN, 1.0, False),
    ],
)
def test_a_target_is_reached_from_its_side(mode: Direction, value: float, reached: bool) -> None:
    assert Target(metric="m", value=0.9, direction=mode).reached(value) is reached


def test_nan_reaches_no_target() -> None:
    assert not Target(metric="m", value=0.0).reached(float("nan"))
