"""Speed-up curves: the mean by size, and Amdahl's law elsewhere."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.requests import measurement
from trainyard.scheduling.speedup import Curve, throughput_by_size


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
