"""The sample of the long tests."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.support.sampling import sample_within

MINUTES = {"cold": 20.0, "seed 1": 11.0, "seed 2": 11.0, "accuracy": 6.0}


@given(budget=st.floats(0, 60), seed=st.text(max_size=8))
def test_a_sample_fits_the_budget_and_leaves_out_nothing_that_would_fit(
    budget: float, seed: str
) -> None:
    sample = sample_within(MINUTES, budget, seed)
    used = sum(MINUTES[name] for name in sample)
    assert used <= budget
    assert all(used + MINUTES[name] > budget for name in MINUTES.keys() - sample)


def test_a_sample_depends_on_the_seed_alone() -> None:
    reordered = dict(reversed(MINUTES.items()))
    assert sample_within(MINUTES, 15, "abc") == sample_within(reordered, 15, "abc")


def test_over_many_seeds_every_test_that_fits_alone_is_sampled() -> None:
    samples = [sample_within(MINUTES, 12, str(seed)) for seed in range(50)]
    assert set[str]().union(*samples) == {"seed 1", "seed 2", "accuracy"}
