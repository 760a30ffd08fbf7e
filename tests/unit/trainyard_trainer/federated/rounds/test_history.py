"""The history stays bounded, and of equal rounds the first is the best."""

import pytest

from trainyard_trainer.contract.config import Direction, Target
from trainyard_trainer.federated.rounds.history import (
    MAX_ROUNDS,
    Best,
    FederationHistory,
    RoundRecord,
    is_target_reached,
)


def history_of(
    values: list[float | None], direction: Direction = Direction.MAX
) -> FederationHistory:
    history = FederationHistory()
    for number, value in enumerate(values):
        history = history.with_round(RoundRecord(round=number), {"a": 1}, 1).with_score(
            value, direction
        )
    return history


@pytest.mark.parametrize(
    ("values", "direction", "best"),
    [
        ([0.1, 0.3, 0.3, 0.2], Direction.MAX, Best(round=1, value=0.3)),
        ([0.1, 0.3, 0.05], Direction.MIN, Best(round=2, value=0.05)),
        ([None, float("nan"), 0.2], Direction.MAX, Best(round=2, value=0.2)),
        ([float("nan")], Direction.MAX, None),
    ],
)
def test_the_best_round_is_the_first_best(
    values: list[float | None], direction: Direction, best: Best | None
) -> None:
    assert history_of(values, direction).best == best


def test_a_round_scored_again_replaces_its_score() -> None:
    history = history_of([0.1, 0.5])
    assert history.with_score(0.4, Direction.MAX).best == Best(round=1, value=0.4)


def test_patience_counts_rounds_since_the_best() -> None:
    history = history_of([0.1, 0.5, 0.4, 0.4])
    assert history.is_patience_exhausted(2)
    assert not history.is_patience_exhausted(3)
    assert not history.is_patience_exhausted(None)
    assert not FederationHistory().is_patience_exhausted(1)


def test_the_rounds_are_bounded_and_the_counts_are_not() -> None:
    history = history_of([None] * (MAX_ROUNDS + 5))
    assert len(history.rounds) == MAX_ROUNDS
    assert history.last_round.round == MAX_ROUNDS + 4
    assert history.contributions == {"a": MAX_ROUNDS + 5}


def test_a_target_needs_its_metric() -> None:
    target = Target(metric="m", value=0.5)
    assert is_target_reached(target, {"m": 0.5})
    assert not is_target_reached(target, {"n": 0.9})
    assert not is_target_reached(target, {"m": float("nan")})
    assert not is_target_reached(None, {"m": 0.9})
