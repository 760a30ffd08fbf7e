"""The `Throughput` policy: curves, and what one job proposes by its own measurements."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainyard.api.names import Key
from trainyard.api.reasons import Reason
from trainyard.scheduling.request import JobRequest, PastChange, Throughput
from trainyard.scheduling.throughput import Curve, Proposal, SchedulerSettings, measured, propose

NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)
SETTINGS = SchedulerSettings()


def figure(workers: int, speed: float, steps: int = 100, local_batch: int = 64) -> Throughput:
    return Throughput(
        nodes=1, workers=workers, local_batch=local_batch, samples_per_second=speed, steps=steps
    )


def minutes_ago(minutes: float) -> datetime:
    return NOW - timedelta(minutes=minutes)


def job(here: int, speeds: dict[int, float], **fields: Any) -> JobRequest:
    """A steady job with `here` workers, measured at the sizes in `speeds`, long left alone."""
    defaults: dict[str, Any] = {
        "max_workers": 8,
        "is_running": True,
        "admitted_at": minutes_ago(300),
        "decided_at": minutes_ago(300),
        "measured_at": NOW,
        "profile": tuple(figure(workers, speed) for workers, speed in speeds.items()),
    }
    key = Key("DistributedJob", "team", "a")
    return JobRequest(key=key, created_at=NOW, admitted_workers=here, **{**defaults, **fields})


def change(before: int, after: int, minutes: float) -> PastChange:
    return PastChange(from_workers=before, to_workers=after, decided_at=minutes_ago(minutes))


def decide(demand: JobRequest) -> Proposal:
    return propose(demand, NOW, SETTINGS)


# --- Curves ---


def test_the_figure_of_a_size_is_the_mean_of_its_configurations_by_steps() -> None:
    profile = [figure(2, 100, 30), figure(2, 200, 10, local_batch=32), figure(1, 50)]
    assert measured(profile, min_steps=20) == ((1, 50.0), (2, 125.0))


def test_sizes_with_few_steps_are_not_measured() -> None:
    assert measured([figure(1, 50, 19), figure(2, 90, 20)], min_steps=20) == ((2, 90.0),)


@pytest.mark.parametrize("speed", [math.nan, math.inf, -math.inf, -5.0, 0.0, 1e300, 1e-300])
def test_impossible_figures_are_ignored(speed: float) -> None:
    assert measured([figure(1, speed), figure(2, 90)], min_steps=1) == ((2, 90.0),)


@given(st.lists(st.tuples(st.integers(-2, 9), st.floats(), st.integers(-5, 10**400)), max_size=8))
def test_no_profile_makes_the_policy_raise(figures: list[tuple[int, float, int]]) -> None:
    profile = tuple(figure(workers, speed, steps) for workers, speed, steps in figures)
    proposal = decide(job(2, {}, profile=profile))
    assert 1 <= proposal.workers <= 8


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


# --- Proposals ---


@pytest.mark.parametrize(
    ("here", "speeds", "fields", "workers", "reason"),
    [
        pytest.param(1, {1: 100}, {}, 2, Reason.GROW_TO_MEASURE, id="one size known: try twice it"),
        pytest.param(2, {1: 410, 2: 750}, {}, 4, Reason.GROW_PAYS, id="it paid: double again"),
        pytest.param(4, {2: 200, 4: 390}, {"max_workers": 6}, 6, Reason.GROW_PAYS, id="to max"),
        pytest.param(8, {4: 400, 8: 780}, {}, 8, Reason.STEADY, id="at max: steady"),
        pytest.param(2, {1: 100, 2: 104}, {}, 1, Reason.SHRINK_DOES_NOT_PAY, id="did not pay"),
        pytest.param(2, {1: 100, 2: 60}, {}, 1, Reason.SHRINK_DOES_NOT_PAY, id="made it worse"),
        pytest.param(
            2, {1: 100, 2: 104}, {"min_workers": 2}, 4, Reason.GROW_TO_MEASURE,
            id="sizes below min are no choice",
        ),
        pytest.param(
            4, {1: 100, 2: 190, 4: 270}, {}, 3, Reason.SHRINK_DOES_NOT_PAY,
            id="less than half of the growth promised: try the middle",
        ),
        pytest.param(
            4, {1: 100, 2: 190, 3: 200, 4: 270}, {}, 8, Reason.GROW_PAYS,
            id="the middle was tried and is worse: go on",
        ),
        pytest.param(
            3, {1: 100, 2: 190, 3: 270, 4: 271}, {"history": (change(4, 3, 5),)}, 3, Reason.STEADY,
            id="a larger size is known not to pay: steady",
        ),
        pytest.param(
            3, {1: 100, 2: 190, 3: 270, 4: 271}, {"history": (change(4, 3, 30),)}, 4,
            Reason.GROW_PAYS, id="half an hour later it is tried again",
        ),
        pytest.param(
            3, {1: 100, 2: 190, 3: 270, 4: 271},
            {"history": (change(4, 3, 70), change(3, 4, 40), change(4, 3, 38))}, 3,
            Reason.STEADY, id="after a vain retry it waits twice as long",
        ),
        pytest.param(
            2, {2: 200, 4: 390}, {"history": (change(4, 2, 5),)}, 4, Reason.GROW_PAYS,
            id="a size known to pay well is taken again at once",
        ),
        pytest.param(
            3, {2: 200, 3: 290, 4: 310}, {"history": (change(4, 3, 5),)}, 3, Reason.STEADY,
            id="one that hardly pays is not",
        ),
        pytest.param(
            3, {2: 200, 3: 290, 4: 310}, {"history": (change(4, 3, 31),)}, 4, Reason.GROW_PAYS,
            id="but after half an hour it is",
        ),
        pytest.param(
            4, {2: 200, 4: 215}, {"min_gain": 1.1}, 2, Reason.SHRINK_DOES_NOT_PAY, id="own minGain"
        ),
        pytest.param(
            32, {16: 1600, 32: 3150}, {"max_workers": 64}, 64, Reason.GROW_PAYS,
            id="large jobs grow too",
        ),
    ],
)  # fmt: skip
def test_a_steady_job_wants(
    here: int, speeds: dict[int, float], fields: dict[str, Any], workers: int, reason: Reason
) -> None:
    proposal = decide(job(here, speeds, **fields))
    assert (proposal.workers, proposal.reason) == (workers, reason)


@pytest.mark.parametrize(
    ("fields", "reason", "again_in"),
    [
        pytest.param({"is_running": False}, Reason.MEASURING, None, id="workers are joining"),
        pytest.param({"measured_at": None}, Reason.METRICS_STALE, None, id="never read"),
        pytest.param(
            {"measured_at": minutes_ago(0.25)}, Reason.METRICS_STALE, None, id="read 15 s ago"
        ),
        pytest.param(
            {"profile": (figure(1, 99), figure(2, 190, 9))}, Reason.MEASURING, 15, id="few steps"
        ),
        pytest.param(
            {"decided_at": NOW - timedelta(seconds=50)}, Reason.COOLING_DOWN, 10, id="cooldown"
        ),
        pytest.param(
            {"history": tuple(change(1, 2, 59.9 - n) for n in range(12))},
            Reason.CHANGE_LIMIT,
            6,
            id="twelve changes in the last hour",
        ),
        pytest.param({"max_changes_per_hour": 0}, Reason.CHANGE_LIMIT, 15, id="no changes wanted"),
    ],
)
def test_a_wish_to_grow_is_held_back(
    fields: dict[str, Any], reason: Reason, again_in: float | None
) -> None:
    proposal = decide(job(2, {1: 100, 2: 190}, **fields))
    assert (proposal.workers, proposal.reason) == (2, reason)
    requeue_at = None if again_in is None else NOW + timedelta(seconds=again_in)
    assert proposal.requeue_at == requeue_at


def test_changes_older_than_an_hour_and_admissions_do_not_count() -> None:
    history = (*(change(1, 2, 60 + n) for n in range(12)), *(change(0, 2, n) for n in range(12)))
    assert decide(job(2, {1: 100, 2: 190}, history=history)).workers == 4


def test_the_smallest_growth_worth_while_can_pay_even_if_linear() -> None:
    proposal = decide(job(32, {16: 1600, 32: 3200}, max_workers=64))
    assert (proposal.at_least, proposal.workers) == (34, 64)


def test_a_growth_that_cannot_pay_is_not_tried() -> None:
    proposal = decide(job(32, {16: 1600, 32: 3200}, max_workers=33))
    assert (proposal.workers, proposal.reason) == (32, Reason.STEADY)
    assert "expected to bring 1.03×" in proposal.explanation


def test_the_reason_holds_the_figures() -> None:
    proposal = decide(job(2, {1: 410, 2: 750}))
    assert proposal.explanation == "1→2 paid 1.83× (410→750 samples/s, minGain 1.05)"
    assert proposal.curve is not None
    assert proposal.curve.speedup(2, 4) == pytest.approx(1.708, abs=0.001)


def test_a_steady_job_says_when_it_tries_again() -> None:
    history = (change(2, 1, 29.9),)
    proposal = decide(job(1, {1: 100, 2: 101}, history=history))
    assert proposal.explanation == (
        "1→2 brought 1.01× (100→101 samples/s, minGain 1.05); not again before 12:00:06"
    )
    assert proposal.requeue_at == NOW + timedelta(seconds=6)
