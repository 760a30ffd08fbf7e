"""The policy over noisy step times: it changes a size for a reason, and does not oscillate."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.measuring import MeasuredJob
from tests.support.recorded import BUSY, CALM

COOLDOWN = timedelta(seconds=10)
"""The demo's."""


def recorded(busy_from: float, busy_for: float) -> Callable[[int, float], float]:
    """The recorded steps, busy for a while."""
    taken: Counter[int] = Counter()

    def step_seconds(workers: int, at: float) -> float:
        steps = (BUSY if busy_from <= at < busy_from + busy_for else CALM)[workers]
        taken[workers] += 1
        return steps[taken[workers] % len(steps)]

    return step_seconds


def demo_job(busy_from: float, busy_for: float, *, measures_spread: bool = True) -> MeasuredJob:
    job = MeasuredJob(
        step_seconds=recorded(busy_from, busy_for),
        cooldown=COOLDOWN,
        measures_spread=measures_spread,
    )
    job.run(timedelta(seconds=busy_from + busy_for + 300))
    return job


@pytest.mark.parametrize("busy_for", [30, 60, 120, 180])
@pytest.mark.parametrize("busy_from", [20, 40, 60, 80, 100, 150, 300])
def test_the_demos_job_grows_to_four_workers_and_stays_while_a_federation_disturbs_it(
    busy_from: float, busy_for: float
) -> None:
    assert demo_job(busy_from, busy_for).sizes == [2, 4]


@pytest.mark.parametrize("busy_for", [30, 60, 120, 300, 1800])
@pytest.mark.parametrize("busy_from", [60, 80, 100, 150, 300])
def test_a_size_that_had_paid_outlasts_any_disturbance_without_a_measured_spread_too(
    busy_from: float, busy_for: float
) -> None:
    assert demo_job(busy_from, busy_for, measures_spread=False).sizes == [2, 4]


@pytest.mark.parametrize("busy_from", [20, 40, 60, 80, 100, 150, 300])
def test_half_an_hour_beside_a_federation_makes_the_job_return_once_at_most(
    busy_from: float,
) -> None:
    job = demo_job(busy_from, 1800)
    assert job.sizes in ([2, 4], [2, 1, 2, 4], [2, 4, 2, 4])
    assert job.status.desired == 4


def test_a_day_in_which_the_load_comes_and_goes_changes_nothing() -> None:
    taken: Counter[int] = Counter()

    def step_seconds(workers: int, at: float) -> float:
        steps = (BUSY if at % 1200 > 800 else CALM)[workers]
        taken[workers] += 1
        return steps[taken[workers] % len(steps)]

    job = MeasuredJob(step_seconds=step_seconds, cooldown=COOLDOWN, interval=timedelta(seconds=15))
    job.run(timedelta(days=1))
    assert job.sizes == [2, 4]


# --- Noise drawn from a seed ---


def noisy(
    seed: int, noise: float, seconds: Callable[[int, float], float]
) -> Callable[[int, float], float]:
    """Steps of so many seconds that vary by `noise` and depend on the step before."""
    rng, deviation = random.Random(seed), 0.0

    def step_seconds(workers: int, at: float) -> float:
        nonlocal deviation
        deviation = 0.5 * deviation + rng.gauss(0.0, noise * 0.75**0.5)
        return seconds(workers, at) * max(0.3, 1 + deviation)

    return step_seconds


SEEDS = st.integers(0, 2**32)
NOISES = st.floats(0.0, 0.15)


@settings(max_examples=6, deadline=None)
@given(SEEDS, NOISES)
def test_noise_around_equal_speeds_changes_a_size_a_few_times_a_day(
    seed: int, noise: float
) -> None:
    job = MeasuredJob(
        step_seconds=noisy(seed, noise, lambda _, __: 10.0),
        interval=timedelta(seconds=30),
    )
    job.run(timedelta(days=1))
    # A trial and its end after 0.5, 1, 2, 4, 4 … hours, and as many again by chance.
    assert len(job.messages) <= 36


@settings(max_examples=25, deadline=None)
@given(SEEDS, NOISES)
def test_a_true_gain_of_a_half_makes_the_job_grow_and_stay(seed: int, noise: float) -> None:
    job = MeasuredJob(
        step_seconds=noisy(seed, noise, lambda workers, _: 1.5 ** -(workers > 1)), max_workers=2
    )
    job.run(timedelta(minutes=30))
    assert job.sizes == [2]


@settings(max_examples=25, deadline=None)
@given(SEEDS, NOISES)
def test_a_true_loss_is_given_back_within_five_minutes(seed: int, noise: float) -> None:
    job = MeasuredJob(step_seconds=noisy(seed, noise, lambda workers, _: 1 + 0.2 * (workers > 1)))
    job.run(timedelta(minutes=10))
    grown, shrunk = job.status.history[1:3]
    assert (grown.to, shrunk.to) == (2, 1)
    assert shrunk.decision_time - grown.decision_time <= timedelta(minutes=5, seconds=15)


def test_a_clear_loss_is_given_back_as_soon_as_the_cooldown_is_over() -> None:
    job = MeasuredJob(step_seconds=noisy(1, 0.02, lambda workers, _: 1 + 0.2 * (workers > 1)))
    job.run(timedelta(minutes=10))
    grown, shrunk = job.status.history[1:3]
    assert (grown.to, shrunk.to) == (2, 1)
    assert shrunk.decision_time - grown.decision_time <= job.cooldown + 2 * job.interval


@settings(max_examples=15, deadline=None)
@given(SEEDS, NOISES)
def test_a_proven_size_that_loses_its_gain_for_good_is_given_back_within_half_an_hour(
    seed: int, noise: float
) -> None:
    lost_at = 900.0
    job = MeasuredJob(
        step_seconds=noisy(
            seed,
            noise,
            lambda workers, at: 0.67 if workers > 1 and at < lost_at else 1.0 + 0.2 * (workers > 1),
        ),
        max_workers=2,
    )
    job.run(timedelta(minutes=45))
    assert job.sizes[:2] == [2, 1]
    assert "paid at first and clearly no longer does" in job.messages[1]
