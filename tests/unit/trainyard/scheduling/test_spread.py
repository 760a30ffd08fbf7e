"""How much of a difference noise explains."""

from __future__ import annotations

import math
import random
from statistics import fmean, stdev

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trainyard.api.status import SampleTimes
from trainyard.scheduling.spread import (
    ASSUMED_ERROR,
    CONFIDENCE,
    Estimate,
    estimate,
    pooled,
    speedup_interval,
)

_SECONDS = st.floats(1e-4, 1e2)
_BLOCKS = st.lists(_SECONDS, min_size=2, max_size=20)


def times_of(blocks: list[float]) -> SampleTimes:
    return SampleTimes(blocks=len(blocks), mean=fmean(blocks), deviation=stdev(blocks))


@given(st.lists(_BLOCKS, min_size=1, max_size=4))
def test_pooled_times_are_those_of_all_blocks(parts: list[list[float]]) -> None:
    expected = times_of([value for part in parts for value in part])
    found = pooled(times_of(part) for part in parts)
    assert found.blocks == expected.blocks
    assert found.mean == pytest.approx(expected.mean)
    assert found.deviation == pytest.approx(expected.deviation, abs=1e-6)


def test_the_error_of_a_speed_shrinks_with_the_root_of_the_blocks() -> None:
    some = estimate(SampleTimes(blocks=16, mean=0.002, deviation=0.0002))
    many = estimate(SampleTimes(blocks=64, mean=0.002, deviation=0.0002))
    assert some == Estimate(speed=500.0, error=0.025, degrees=15)
    assert many == Estimate(speed=500.0, error=0.0125, degrees=63)


@pytest.mark.parametrize(("deviation", "error"), [(0.0, ASSUMED_ERROR), (0.0002, 0.05)])
def test_the_error_of_few_blocks_is_at_least_the_assumed_one(
    deviation: float, error: float
) -> None:
    few = estimate(SampleTimes(blocks=4, mean=0.002, deviation=deviation))
    assert few == Estimate(speed=500.0, error=error, degrees=4)


def test_the_interval_is_known_for_known_errors() -> None:
    known = Estimate(speed=100.0, error=ASSUMED_ERROR)
    low, high = speedup_interval(known, Estimate(speed=200.0, error=ASSUMED_ERROR))
    assert low == pytest.approx(2 / math.exp(2.5758 * math.sqrt(2) * 0.03), rel=1e-4)
    assert low * high == pytest.approx(4.0)


def test_fewer_blocks_make_the_interval_wider() -> None:
    widths = []
    for degrees in (1, 2, 5, 20, math.inf):
        one = Estimate(speed=100.0, error=0.01, degrees=degrees)
        low, high = speedup_interval(one, one)
        widths.append(high / low)
    assert widths == sorted(widths, reverse=True)


def test_without_noise_the_interval_is_the_ratio() -> None:
    slow, fast = (Estimate(speed=speed, error=0.0, degrees=3) for speed in (100.0, 150.0))
    assert speedup_interval(slow, fast) == (1.5, 1.5)
    half_known = Estimate(speed=100.0, error=0.0)
    assert speedup_interval(half_known, Estimate(speed=150.0, error=0.01))[0] < 1.5


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = random.Random(1)
    trials, covered = 2000, 0
    for _ in range(trials):
        blocks = [[rng.gauss(mean, 0.1 * mean) for _ in range(8)] for mean in (0.003, 0.002)]
        low, high = speedup_interval(*(estimate(times_of(part)) for part in blocks))
        covered += low <= 1.5 <= high
    assert covered / trials == pytest.approx(CONFIDENCE, abs=0.008)


@given(
    st.builds(
        SampleTimes,
        blocks=st.integers(2, 10**400),
        mean=st.floats(1e-12, 1e6),
        deviation=st.floats(0, 1e6),
    ),
    st.builds(
        Estimate,
        speed=st.floats(1e-6, 1e12),
        error=st.floats(0, 1) | st.just(1e-30),
        degrees=st.sampled_from([4, 60, math.inf]),
    ),
)
@example(SampleTimes(blocks=9, mean=1.0, deviation=1e-60), Estimate(speed=1.0, error=0.03))
def test_no_figures_make_an_interval_raise(times: SampleTimes, other: Estimate) -> None:
    for pair in ((other, estimate(times)), (estimate(times), other)):
        low, high = speedup_interval(*pair)
        assert 0 <= low <= high < math.inf
