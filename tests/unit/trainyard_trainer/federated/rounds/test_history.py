"""What is remembered of rounds stays bounded, and the best is the first best."""

import pytest

from trainyard_trainer.contract.config import Direction, Target
from trainyard_trainer.federated.rounds.history import (
    LENGTH,
    Best,
    FederationHistory,
    RoundRecord,
    is_reached,
)


def after(values: list[float | None], mode: Direction = Direction.MAX) -> FederationHistory:
    record = FederationHistory()
    for number, value in enumerate(values):
        record = record.aggregated(RoundRecord(round=number), {"a": 1}, 1).judged(value, mode)
    return record


@pytest.mark.parametrize(
    ("values", "mode", "best"),
    [
        ([0.1, 0.3, 0.3, 0.2], Direction.MAX, Best(round=1, value=0.3)),
        ([0.1, 0.3, 0.05], Direction.MIN, Best(round=2, value=0.05)),
        ([None, float("nan"), 0.2], Direction.MAX, Best(round=2, value=0.2)),
        ([float("nan")], Direction.MAX, None),
    ],
)
def test_the_best_round_is_the_first_best(
    values: list[float | None], mode: Direction, best: Best | None
) -> None:
    assert after(values, mode).best == best


def test_a_round_that_is_judged_again_replaces_its_own_verdict() -> None:
    record = after([0.1, 0.5])
    assert record.judged(0.4, Direction.MAX).best == Best(round=1, value=0.4)


def test_patience_counts_rounds_since_the_best() -> None:
    record = after([0.1, 0.5, 0.4, 0.4])
    assert record.is_stale(2)
    assert not record.is_stale(3)
    assert not record.is_stale(None)
    assert not FederationHistory().is_stale(1)


def test_the_history_is_bounded_and_counts_are_not() -> None:
    record = after([None] * (LENGTH + 5))
    assert len(record.history) == LENGTH
    assert record.last.round == LENGTH + 4
    assert record.contributions == {"a": LENGTH + 5}


def test_a_target_needs_its_metric() -> None:
    target = Target(metric="m", value=0.5)
    assert is_reached(target, {"m": 0.5})
    assert not is_reached(target, {"n": 0.9})
    assert not is_reached(target, {"m": float("nan")})
    assert not is_reached(None, {"m": 0.9})
