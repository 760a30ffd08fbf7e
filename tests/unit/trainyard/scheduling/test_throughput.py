"""The `Throughput` policy: what one job should have by its own measurements."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.requests import NOW, key, measurement, shape
from trainyard.api.reasons import Reason
from trainyard.api.status import Change, Measurement, SampleTimes
from trainyard.scheduling.basis import (
    AtMaximum,
    GrowthBelowExpectation,
    GrowthDidNotPay,
    GrowthNoLongerPays,
    GrowthUncertain,
    LargerSizeDidNotPay,
    LargerSizePays,
    LossUncertain,
)
from trainyard.scheduling.explain_size import explain_size
from trainyard.scheduling.proposal import Proposal, SchedulerSettings
from trainyard.scheduling.request import JobRequest
from trainyard.scheduling.throughput import propose

SETTINGS = SchedulerSettings()


def minutes_ago(minutes: float) -> datetime:
    return NOW - timedelta(minutes=minutes)


def job(admitted: int, speeds: dict[int, float], **fields: Any) -> JobRequest:
    """A job steady for hours with `admitted` workers, measured at the sizes in `speeds`."""
    defaults: dict[str, Any] = {
        "shape": shape(),
        "max_workers": 8,
        "is_running": True,
        "admitted_at": minutes_ago(300),
        "decision_time": minutes_ago(300),
        "measured_at": NOW,
        "profile": tuple(measurement(workers, speed) for workers, speed in speeds.items()),
    }
    values = {**defaults, **fields}
    return JobRequest(key=key("a"), created_at=NOW, admitted_workers=admitted, **values)


def change(before: int, after: int, minutes: float) -> Change:
    return Change(from_=before, to=after, reason="", decision_time=minutes_ago(minutes))


def proposal_of(request: JobRequest) -> Proposal:
    return propose(request, NOW, SETTINGS)


@pytest.mark.parametrize(
    ("admitted", "speeds", "fields", "workers", "reason"),
    [
        pytest.param(1, {1: 100}, {}, 2, Reason.GROW_TO_MEASURE, id="one size known: try twice it"),
        pytest.param(2, {1: 410, 2: 750}, {}, 4, Reason.GROW_PAYS, id="it paid: double again"),
        pytest.param(4, {2: 200, 4: 390}, {"max_workers": 6}, 6, Reason.GROW_PAYS, id="to max"),
        pytest.param(8, {4: 400, 8: 780}, {}, 8, Reason.STEADY, id="at max: steady"),
        pytest.param(2, {1: 100, 2: 104}, {}, 1, Reason.SHRINK_DOES_NOT_PAY, id="did not pay"),
        pytest.param(2, {1: 100, 2: 60}, {}, 1, Reason.SHRINK_DOES_NOT_PAY, id="made it worse"),
        pytest.param(
            2, {1: 100, 2: 104}, {"min_workers": 2}, 4, Reason.GROW_TO_MEASURE,
            id="sizes below min do not count",
        ),
        pytest.param(
            4, {1: 100, 2: 190, 4: 270}, {}, 3, Reason.SHRINK_DOES_NOT_PAY,
            id="less than half of the growth would bring: try the middle",
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
            Reason.STEADY, id="after a failed retry it waits twice as long",
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
def test_the_size_proposed_for_a_steady_job(
    admitted: int, speeds: dict[int, float], fields: dict[str, Any], workers: int, reason: Reason
) -> None:
    proposal = proposal_of(job(admitted, speeds, **fields))
    assert (proposal.workers, proposal.reason) == (workers, reason)


@pytest.mark.parametrize(
    ("fields", "reason", "requeue_after"),
    [
        pytest.param({"is_running": False}, Reason.MEASURING, None, id="workers are joining"),
        pytest.param({"measured_at": None}, Reason.METRICS_STALE, None, id="never read"),
        pytest.param(
            {"measured_at": minutes_ago(0.25)}, Reason.METRICS_STALE, None, id="read 15 s ago"
        ),
        pytest.param(
            {"profile": (measurement(1, 99), measurement(2, 190, 9))},
            Reason.MEASURING,
            15,
            id="few steps",
        ),
        pytest.param(
            {"decision_time": NOW - timedelta(seconds=50)}, Reason.COOLING_DOWN, 10, id="cooldown"
        ),
        pytest.param(
            {"history": tuple(change(1, 2, 59.9 - n) for n in range(12))},
            Reason.CHANGE_LIMIT,
            6,
            id="twelve changes in the last hour",
        ),
        pytest.param({"max_changes_per_hour": 0}, Reason.CHANGE_LIMIT, 15, id="no changes allowed"),
    ],
)
def test_growth_is_held_back(
    fields: dict[str, Any], reason: Reason, requeue_after: float | None
) -> None:
    proposal = proposal_of(job(2, {1: 100, 2: 190}, **fields))
    assert (proposal.workers, proposal.reason) == (2, reason)
    requeue_at = None if requeue_after is None else NOW + timedelta(seconds=requeue_after)
    assert proposal.requeue_at == requeue_at


def test_changes_older_than_an_hour_and_admissions_do_not_count() -> None:
    history = (*(change(1, 2, 60 + n) for n in range(12)), *(change(0, 2, n) for n in range(12)))
    assert proposal_of(job(2, {1: 100, 2: 190}, history=history)).workers == 4


def test_the_smallest_growth_proposed_would_pay_if_linear() -> None:
    proposal = proposal_of(job(32, {16: 1600, 32: 3200}, max_workers=64))
    assert (proposal.at_least, proposal.workers) == (34, 64)


def test_a_growth_that_cannot_pay_is_not_tried() -> None:
    proposal = proposal_of(job(32, {16: 1600, 32: 3200}, max_workers=33))
    assert (proposal.workers, proposal.reason) == (32, Reason.STEADY)
    assert "expected to bring 1.03×" in explain_size(proposal.basis)


def test_the_explanation_has_the_figures() -> None:
    proposal = proposal_of(job(2, {1: 410, 2: 750}))
    assert explain_size(proposal.basis) == "1→2 paid 1.83× (410→750 samples/s, minGain 1.05)"
    assert proposal.curve is not None
    assert proposal.curve.speedup(2, 4) == pytest.approx(1.708, abs=0.001)


def test_the_message_of_a_settled_job_has_the_time_of_its_next_trial() -> None:
    history = (change(2, 1, 29.9),)
    proposal = proposal_of(job(1, {1: 100, 2: 101}, history=history))
    assert explain_size(proposal.basis) == (
        "1→2 brought 1.01× (100→101 samples/s, minGain 1.05); not tried again before 12:00:06"
    )
    assert proposal.requeue_at == NOW + timedelta(seconds=6)


@given(st.lists(st.tuples(st.integers(-2, 9), st.floats(), st.integers(-5, 10**400)), max_size=8))
def test_no_profile_makes_the_policy_raise(entries: list[tuple[int, float, int]]) -> None:
    profile = tuple(measurement(workers, speed, steps) for workers, speed, steps in entries)
    proposal = proposal_of(job(2, {}, profile=profile))
    assert 1 <= proposal.workers <= 8


def noisy(workers: int, speed: float, deviation: float, blocks: int = 16) -> Measurement:
    """A measurement whose blocks deviate by so much of the mean."""
    times = SampleTimes(blocks=blocks, mean=1 / speed, deviation=deviation / speed)
    return msgspec.structs.replace(measurement(workers, speed), sample_times=times)


def rows(speeds: dict[int, float], deviation: float) -> tuple[Measurement, ...]:
    return tuple(noisy(workers, speed, deviation) for workers, speed in speeds.items())


LOSS = {1: 100.0, 2: 131.0, 4: 128.0}
SHORT_OF_HALF = {1: 100.0, 2: 190.0, 4: 270.0}
FAR_BELOW_HALF = {1: 100.0, 2: 190.0, 4: 230.0}
BACK = (change(4, 2, 5),)


@pytest.mark.parametrize(
    ("admitted", "profile", "fields", "workers", "reason", "basis"),
    [
        pytest.param(
            4, rows(LOSS, 0.1), {"proven_workers": 4}, 4, Reason.STEADY, LossUncertain,
            id="proven, and noise may explain the loss: stay",
        ),
        pytest.param(
            4, rows(LOSS, 0.02), {"proven_workers": 4}, 2, Reason.SHRINK_DOES_NOT_PAY,
            GrowthNoLongerPays, id="proven, and the loss is clear: shrink",
        ),
        pytest.param(
            4, rows(LOSS, 0.1), {"history": (change(4, 2, 20), change(2, 4, 9))}, 4, Reason.STEADY,
            LossUncertain, id="taken again within the pause: like a proven one",
        ),
        pytest.param(
            4, rows(LOSS, 0.1), {"history": (change(4, 2, 40), change(2, 4, 9))}, 2,
            Reason.SHRINK_DOES_NOT_PAY, GrowthDidNotPay, id="tried again after it: on trial",
        ),
        pytest.param(
            4, rows(LOSS, 0.1), {"decision_time": minutes_ago(4)}, 4, Reason.MEASURING,
            GrowthUncertain, id="on trial and not clear: measure on",
        ),
        pytest.param(
            4, rows(LOSS, 0.1), {"decision_time": minutes_ago(5)}, 2, Reason.SHRINK_DOES_NOT_PAY,
            GrowthDidNotPay, id="on trial for five minutes: the means decide",
        ),
        pytest.param(
            4, rows(LOSS, 0.02), {"decision_time": minutes_ago(2)}, 2, Reason.SHRINK_DOES_NOT_PAY,
            GrowthDidNotPay, id="on trial and clear: shrink at once",
        ),
        pytest.param(
            4, tuple(measurement(*row) for row in LOSS.items()),
            {"decision_time": minutes_ago(2)}, 2, Reason.SHRINK_DOES_NOT_PAY, GrowthDidNotPay,
            id="on trial and no spread measured: the means decide",
        ),
        pytest.param(
            4, tuple(measurement(*row) for row in LOSS.items()), {"proven_workers": 4}, 4,
            Reason.STEADY, LossUncertain, id="proven and no spread measured: some is assumed",
        ),
        pytest.param(
            4, (measurement(1, 100), measurement(2, 131), measurement(4, 110)),
            {"proven_workers": 4}, 2, Reason.SHRINK_DOES_NOT_PAY, GrowthNoLongerPays,
            id="and no spread explains a loss of a sixth",
        ),
        pytest.param(
            4, rows(FAR_BELOW_HALF, 0.01), {"proven_workers": 4}, 3, Reason.SHRINK_DOES_NOT_PAY,
            GrowthBelowExpectation, id="clearly less than half would bring: try the middle",
        ),
        pytest.param(
            4, rows(SHORT_OF_HALF, 0.1), {"max_workers": 4}, 4, Reason.STEADY, AtMaximum,
            id="less than half would bring, but not clearly: stay",
        ),
        pytest.param(
            2, rows({1: 100.0, 2: 131.0, 4: 190.0}, 0.02), {"history": BACK}, 4, Reason.GROW_PAYS,
            LargerSizePays, id="clearly better: taken again at once",
        ),
        pytest.param(
            2, rows({1: 100.0, 2: 131.0, 4: 155.0}, 0.15), {"history": BACK}, 2, Reason.STEADY,
            LargerSizeDidNotPay, id="better, but not clearly: after the pause",
        ),
        pytest.param(
            2, rows({1: 100.0, 2: 131.0, 4: 190.0}, 0.02),
            {"history": (change(4, 2, 25), change(2, 4, 15), change(4, 2, 5))}, 2, Reason.STEADY,
            LargerSizeDidNotPay, id="clearly better for the second time: after the pause",
        ),
    ],
)  # fmt: skip
def test_noise_is_weighed(
    admitted: int,
    profile: tuple[Measurement, ...],
    fields: dict[str, Any],
    workers: int,
    reason: Reason,
    basis: type,
) -> None:
    proposal = proposal_of(job(admitted, {}, profile=profile, **fields))
    assert (proposal.workers, proposal.reason) == (workers, reason)
    assert isinstance(proposal.basis, basis)


def test_a_size_given_back_after_it_had_paid_is_explained_with_both_speeds_and_their_spread() -> (
    None
):
    request = job(4, {}, profile=rows(LOSS, 0.02), proven_workers=4)
    assert explain_size(proposal_of(request).basis) == (
        "2→4 paid at first and clearly no longer does: 0.98× (131 ± 0.655→128 ± 0.64 samples/s, "
        "0.96× to 1.00× with 99 % confidence, minGain 1.05)"
    )


def test_a_growth_that_is_not_clear_is_evaluated_again_when_its_trial_ends() -> None:
    request = job(4, {}, profile=rows(LOSS, 0.1), decision_time=NOW - timedelta(seconds=295))
    proposal = proposal_of(request)
    assert explain_size(proposal.basis).endswith("not clear yet, measured until 12:00:05")
    assert proposal.requeue_at == NOW + timedelta(seconds=5)


@given(
    st.lists(
        st.tuples(st.integers(1, 8), st.floats(), st.integers(), st.floats(), st.floats()),
        max_size=8,
    ),
    st.integers(-1, 9),
)
def test_no_spread_makes_the_policy_raise(
    entries: list[tuple[int, float, int, float, float]], proven: int
) -> None:
    profile = tuple(
        msgspec.structs.replace(
            measurement(workers, speed),
            sample_times=SampleTimes(blocks=blocks, mean=mean, deviation=deviation),
        )
        for workers, speed, blocks, mean, deviation in entries
    )
    proposal = proposal_of(job(2, {2: 100.0}, profile=profile, proven_workers=proven))
    assert 1 <= proposal.workers <= 8
    assert explain_size(proposal.basis)
