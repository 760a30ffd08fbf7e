"""Speed-up curves: the mean by size, and Amdahl's law elsewhere."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.requests import measurement
from trainyard.api.status import Measurement, SampleTimes
from trainyard.scheduling.speedup import Curve, measured_curve, throughput_by_size
from trainyard.scheduling.spread import Estimate


def test_a_size_has_the_mean_of_its_configurations_weighted_by_steps() -> None:
    profile = [measurement(2, 100, 30), measurement(2, 200, 10, local_batch=32), measurement(1, 50)]
    assert throughput_by_size(profile, min_steps=20) == ((1, 50.0), (2, 125.0))


def test_sizes_with_few_steps_are_not_measured() -> None:
    profile = [measurement(1, 50, 19), measurement(2, 90, 20)]
    assert throughput_by_size(profile, min_steps=20) == ((2, 90.0),)


@pytest.mark.parametrize("speed", [math.nan, math.inf, -math.inf, -5.0, 0.0, 1e300, 1e-300])
def test_impossible_values_are_ignored(speed: float) -> None:
    profile = [measurement(1, speed), measurement(2, 90)]
    assert throughput_by_size(profile, min_steps=1) == ((2, 90.0),)


@pytest.mark.parametrize(
    ("points", "workers", "expected"),
    [
        pytest.param(((1, 410.0), (2, 750.0)), 2, 750.0, id="measured: as measured"),
        pytest.param(
            ((1, 410.0), (2, 750.0)), 4, 1281.25, id="beyond: Amdahl through the last two"
        ),
        pytest.param(((2, 300.0),), 6, 900.0, id="one size only: linear"),
        pytest.param(((1, 100.0), (2, 250.0)), 4, 500.0, id="better than linear: linear"),
        pytest.param(((2, 300.0), (4, 500.0)), 1, 150.0, id="below the smallest: its share"),
        pytest.param(((1, 100.0), (4, 250.0)), 2, 100 / 0.6, id="between: Amdahl through both"),
        pytest.param(((1, 100.0), (2, 100.0)), 8, 100.0, id="flat stays flat"),
    ],
)
def test_the_curve_gives_the_speed(
    points: tuple[tuple[int, float], ...], workers: int, expected: float
) -> None:
    assert Curve(points=points).speed(workers) == pytest.approx(expected)


@given(
    st.dictionaries(st.integers(1, 64), st.floats(1e-6, 1e12), min_size=1, max_size=6),
    st.integers(1, 128),
)
def test_expected_speeds_are_positive_and_never_better_than_linear_beyond_the_measured(
    speeds: dict[int, float], workers: int
) -> None:
    curve = Curve(points=tuple(sorted(speeds.items())))
    largest = max(speeds)
    assert 0 < curve.speed(workers) < math.inf
    if workers > largest:
        assert curve.speed(workers) <= speeds[largest] * workers / largest * (1 + 1e-9)


SIZES = range(1, 9)


def with_times(workers: int, speed: float, times: SampleTimes | None) -> Measurement:
    return msgspec.structs.replace(measurement(workers, speed), sample_times=times)


def test_the_mean_over_the_blocks_counts_where_the_spread_is_known() -> None:
    times = SampleTimes(blocks=20, mean=1 / 180, deviation=1e-3)
    profile = [measurement(1, 100), with_times(2, 150, times)]
    curve = measured_curve(profile, sizes=SIZES, min_steps=1)
    assert dict(curve.points) == pytest.approx({1: 100.0, 2: 180.0})
    assert curve.spreads == {2: times}


def test_placements_of_a_size_are_pooled_if_all_have_a_spread() -> None:
    here = SampleTimes(blocks=10, mean=0.01, deviation=0.001)
    there = SampleTimes(blocks=10, mean=0.02, deviation=0.001)
    rows = [with_times(2, 100, here), msgspec.structs.replace(with_times(2, 50, there), nodes=2)]
    spread = measured_curve(rows, sizes=SIZES, min_steps=1).spreads[2]
    assert spread.blocks == 20
    assert spread.mean == pytest.approx(0.015)
    assert spread.deviation > 0.005
    rows[1] = msgspec.structs.replace(rows[1], sample_times=None)
    curve = measured_curve(rows, sizes=SIZES, min_steps=1)
    assert (curve.points, curve.spreads) == (((2, 75.0),), {})


@pytest.mark.parametrize(
    "times",
    [
        SampleTimes(blocks=1, mean=0.01, deviation=0.0),
        SampleTimes(blocks=-5, mean=0.01, deviation=0.001),
        SampleTimes(blocks=10**400, mean=0.01, deviation=0.001),
        SampleTimes(blocks=9, mean=0.0, deviation=0.001),
        SampleTimes(blocks=9, mean=-0.01, deviation=0.001),
        SampleTimes(blocks=9, mean=math.nan, deviation=0.001),
        SampleTimes(blocks=9, mean=math.inf, deviation=0.001),
        SampleTimes(blocks=9, mean=5e-324, deviation=0.001),
        SampleTimes(blocks=9, mean=0.01, deviation=-0.001),
        SampleTimes(blocks=9, mean=0.01, deviation=math.nan),
        SampleTimes(blocks=9, mean=0.01, deviation=math.inf),
        SampleTimes(blocks=9, mean=0.01, deviation=1e300),
    ],
)
def test_an_impossible_spread_counts_as_unmeasured(times: SampleTimes) -> None:
    curve = measured_curve([with_times(2, 90, times)], sizes=SIZES, min_steps=1)
    assert (curve.points, curve.spreads) == (((2, 90.0),), {})


def test_sizes_out_of_bounds_are_not_on_the_curve() -> None:
    profile = [measurement(size, 100.0 * size) for size in (1, 2, 4)]
    assert measured_curve(profile, sizes=range(2, 4), min_steps=1).sizes() == (2,)


def test_the_error_of_an_expected_speed_has_those_of_both_sizes() -> None:
    spreads = {
        1: SampleTimes(blocks=25, mean=0.010, deviation=0.001),
        2: SampleTimes(blocks=9, mean=0.006, deviation=0.0006),
    }
    points = tuple((size, 1 / times.mean) for size, times in spreads.items())
    found = Curve(points=points, spreads=spreads).estimate(3, unmeasured=0.0)
    # 3 workers take 4/3 of the seconds of two less 1/3 of those of one.
    assert found.speed == pytest.approx(1 / (0.006 * 4 / 3 - 0.010 / 3))
    seconds = math.hypot(0.0002 * 4 / 3, 0.0002 / 3)
    assert found.error == pytest.approx(seconds * found.speed)
    assert found.degrees == 8


def test_a_size_without_a_spread_has_the_assumed_error() -> None:
    curve = Curve(points=((1, 100.0),))
    assert curve.estimate(1, unmeasured=0.03) == Estimate(speed=100.0, error=0.03)
    assert curve.estimate(2, unmeasured=0.03) == Estimate(speed=200.0, error=0.03)
