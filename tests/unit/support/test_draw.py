"""The drawn share of the long tests."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.support.draw import draw

MINUTES = {"cold": 20.0, "seed 1": 11.0, "seed 2": 11.0, "accuracy": 6.0}


@given(budget=st.floats(0, 60), seed=st.text(max_size=8))
def test_what_is_drawn_fits_and_nothing_that_would_fit_is_left(budget: float, seed: str) -> None:
    drawn = draw(MINUTES, budget, seed)
    spent = sum(MINUTES[name] for name in drawn)
    assert spent <= budget
    assert all(spent + MINUTES[name] > budget for name in MINUTES.keys() - drawn)


def test_the_same_seed_draws_the_same() -> None:
    assert draw(MINUTES, 15, "abc") == draw(dict(reversed(MINUTES.items())), 15, "abc")


def test_over_many_seeds_every_test_that_fits_alone_is_drawn() -> None:
    drawn = set[str]().union(*(draw(MINUTES, 12, str(seed)) for seed in range(50)))
    assert drawn == {"seed 1", "seed 2", "accuracy"}
