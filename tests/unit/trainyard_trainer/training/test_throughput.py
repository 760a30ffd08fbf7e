"""Throughput that a scheduler can rely on."""

import math

import pytest

from trainyard_trainer.training.throughput import Configuration, Meter, Profile, Window, trimmed

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
