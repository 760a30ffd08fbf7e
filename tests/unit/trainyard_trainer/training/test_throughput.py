"""Throughput that a scheduler can rely on."""

import math
from collections.abc import Iterable
from statistics import fmean, median, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainyard_trainer.training.throughput import (
    BLOCK_WINDOWS,
    MAX_BLOCKS,
    Configuration,
    Meter,
    Profile,
    Window,
    trimmed,
)

TWO = Configuration(nodes=1, workers=2, local_batch=16)
FOUR = Configuration(nodes=2, workers=4, local_batch=8)


def run(meter: Meter, start: float, steps: int, seconds: float, key: Configuration = TWO) -> float:
    now = start
    for _ in range(steps):
        meter.committed(now, key, samples=32, compute=seconds / 2, communication=seconds / 4)
        now += seconds
    return now


def test_throughput_is_samples_over_wall_time() -> None:
    meter = Meter()
    run(meter, 0.0, 100, 0.1)
    figures = meter.profile.figures()[TWO]
    assert figures.samples_per_second == pytest.approx(320)
    assert figures.compute_seconds == pytest.approx(0.05)
    assert figures.communication_seconds == pytest.approx(0.025)
    assert 80 <= figures.steps <= 100


def test_a_pause_between_windows_is_no_step() -> None:
    meter = Meter()
    now = run(meter, 0.0, 50, 0.1)
    meter.skip(now + 1000.0)
    run(meter, now + 1000.1, 50, 0.1)
    assert meter.profile.figures()[TWO].samples_per_second == pytest.approx(320)


def test_a_new_configuration_starts_its_own_windows() -> None:
    meter = Meter()
    now = run(meter, 0.0, 50, 0.1)
    meter.skip(now)
    run(meter, now + 0.05, 50, 0.05, FOUR)
    figures = meter.profile.figures()
    assert figures[TWO].samples_per_second == pytest.approx(320)
    assert figures[FOUR].samples_per_second == pytest.approx(640)


def test_a_rare_stall_does_not_count_and_a_regular_pause_does() -> None:
    profile = Profile()
    throttled = Window(steps=10, samples=320, seconds=1.0, compute=0.5, communication=0.1)
    stalled = Window(steps=10, samples=320, seconds=20.0, compute=0.5, communication=19.0)
    for window in [throttled] * 15 + [stalled]:
        profile.add(TWO, window)
    figures = profile.figures()[TWO]
    assert figures.samples_per_second == pytest.approx(320)
    assert figures.communication_seconds == pytest.approx(0.01)


def test_the_normal_step_is_the_median() -> None:
    meter = Meter()
    assert meter.normal_step() == 0.0
    now = run(meter, 0.0, 10, 0.1)
    meter.committed(now + 50, TWO, samples=1, compute=0, communication=0)
    assert meter.normal_step() == pytest.approx(0.1)


def test_the_trimmed_mean_of_nothing_is_not_a_number() -> None:
    assert math.isnan(trimmed([]))
    assert trimmed([1.0, 2.0, 3.0]) == 2.0
    assert trimmed([100.0, *[1.0] * 18, -100.0]) == 1.0


def one_second(samples: int) -> Window:
    return Window(steps=10, samples=samples, seconds=1.0)


def measured(rates: Iterable[int], key: Configuration = TWO) -> Profile:
    """A profile of windows of a second in which so many samples were seen."""
    profile = Profile()
    for rate in rates:
        profile.add(key, one_second(rate))
    return profile


@given(st.lists(st.integers(50, 500), min_size=2 * BLOCK_WINDOWS, max_size=60 * BLOCK_WINDOWS))
def test_the_spread_is_that_of_the_blocks_medians(rates: list[int]) -> None:
    figures = measured(rates).figures()[TWO]
    seconds = [1 / rate for rate in rates]
    starts = range(0, len(seconds) - BLOCK_WINDOWS + 1, BLOCK_WINDOWS)
    blocks = [median(seconds[start : start + BLOCK_WINDOWS]) for start in starts]
    assert figures.blocks == len(blocks)
    assert figures.sample_seconds == pytest.approx(fmean(blocks))
    assert figures.sample_seconds_deviation == pytest.approx(stdev(blocks), abs=1e-9)


def test_a_single_block_has_no_spread_and_windows_before_it_have_no_mean() -> None:
    figures = measured([100] * BLOCK_WINDOWS).figures()[TWO]
    assert (figures.blocks, figures.sample_seconds_deviation) == (1, 0.0)
    figures = measured([100] * (BLOCK_WINDOWS - 1)).figures()[TWO]
    assert (figures.blocks, figures.sample_seconds) == (0, 0.0)


def test_a_rare_stall_moves_no_block() -> None:
    figures = measured([320] * 14 + [16]).figures()[TWO]
    assert figures.sample_seconds == pytest.approx(1 / 320)
    assert figures.sample_seconds_deviation == pytest.approx(0.0)


def test_blocks_beyond_the_newest_fade() -> None:
    slow, fast = [100] * (MAX_BLOCKS * BLOCK_WINDOWS), [200] * (MAX_BLOCKS * BLOCK_WINDOWS)
    figures = measured(slow + fast).figures()[TWO]
    assert figures.blocks == MAX_BLOCKS
    assert 1 / 200 < figures.sample_seconds < 1 / 200 + 0.4 * (1 / 100 - 1 / 200)
    long_after = measured(slow + 10 * fast).figures()[TWO]
    assert long_after.sample_seconds == pytest.approx(1 / 200, rel=1e-3)
    assert long_after.sample_seconds_deviation < 0.03 / 200


def test_a_shift_of_load_shows_as_spread_at_first() -> None:
    calm = measured([200] * 60).figures()[TWO]
    shifted = measured([200] * 60 + [150] * 60).figures()[TWO]
    assert calm.sample_seconds_deviation == pytest.approx(0.0)
    assert shifted.sample_seconds_deviation > 0.1 * shifted.sample_seconds


def test_what_was_measured_before_another_configuration_counts_half() -> None:
    profile = measured([100] * (8 * BLOCK_WINDOWS))
    profile.add(FOUR, one_second(400))
    for _ in range(4 * BLOCK_WINDOWS):
        profile.add(TWO, one_second(200))
    figures = profile.figures()[TWO]
    assert figures.blocks == 4 + 4
    assert figures.sample_seconds == pytest.approx((1 / 100 + 1 / 200) / 2)
