"""A target metric has a direction."""

import pytest

from trainyard_trainer.contract.config import Direction, Target


@pytest.mark.parametrize(
    ("direction", "value", "reached"),
    [
        (Direction.MAX, 0.9, True),
        (Direction.MAX, 0.8, False),
        (Direction.MIN, 0.9, True),
        (Direction.MIN, 1.0, False),
    ],
)
def test_a_target_is_reached_from_its_side(
    direction: Direction, value: float, reached: bool
) -> None:
    assert Target(metric="m", value=0.9, direction=direction).reached(value) is reached


def test_nan_reaches_no_target() -> None:
    assert not Target(metric="m", value=0.0).reached(float("nan"))
