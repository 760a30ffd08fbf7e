"""What decisions and reports change in `status.scaling`."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, TypeVar

import msgspec
import pytest

from tests.support.jobs import NOW, admitted
from tests.support.requests import decision
from trainyard.api.federation import AdmissionStatus
from trainyard.api.reasons import Reason
from trainyard.api.report import CoordinatorReport
from trainyard.api.spec import Scaling
from trainyard.api.status import (
    Change,
    Measurement,
    NotPlaced,
    Provisioning,
    SampleTimes,
    ScalingStatus,
)
from trainyard.scheduling.assignment import (
    MAX_FAILED_STARTS,
    MAX_HISTORY,
    back_off,
    forget_failed_starts,
    measured_speedup,
    record_decision,
    record_report,
    release,
)
from trainyard.scheduling.basis import (
    AtMaximum,
    Basis,
    CoolingDown,
    Gain,
    GrowthBelowExpectation,
    GrowthNoLongerPays,
    GrowthPaid,
    GrowthUncertain,
    LossUncertain,
)
from trainyard.scheduling.decision import Decision
from trainyard.scheduling.facts import SizeChanged, SizeKept
from trainyard.scheduling.profile import MAX_PROFILE

_AssignmentT = TypeVar("_AssignmentT", ScalingStatus, AdmissionStatus)


def decided(before: ScalingStatus, new: Decision) -> ScalingStatus:
    return record_decision(before, new, Scaling(cooldown="90s"), NOW)


def measured(workers: int, rate: float, steps: int = 50, **fields: int) -> Measurement:
    values: dict[str, Any] = {"nodes": 1, "local_batch": 64, **fields}
    return Measurement(workers=workers, samples_per_second=rate, steps=steps, **values)


def failed(before: _AssignmentT) -> _AssignmentT:
    """After a failed start."""
    return back_off(before, timedelta(minutes=2), timedelta(hours=1), "not running in time", NOW)


def test_a_changed_number_of_workers_enters_the_history_and_starts_the_cooldown() -> None:
    after = decided(admitted(2), decision(4, expected_speedup=1.8))
    assert (after.desired, after.recommended, after.reason) == (4, 4, "GrowPays")
    assert after.history == [
        Change(from_=2, to=4, reason="GrowPays", decision_time=NOW, expected_speedup=1.8)
    ]
    assert (after.decision_time, after.cooldown_end_time) == (NOW, NOW + timedelta(seconds=90))
    assert (after.expected_speedup, after.measured_speedup) == (1.8, None)


def test_a_decision_to_stay_changes_only_the_explanation() -> None:
    before = decided(admitted(2), decision(4, expected_speedup=1.8))
    after = record_decision(before, decision(4, Reason.STEADY), Scaling(), NOW + timedelta(1))
    assert after.reason == "Steady"
    assert (after.history, after.decision_time) == (before.history, before.decision_time)
    assert after.cooldown_end_time == before.cooldown_end_time


def test_a_recommendation_changes_no_workers() -> None:
    after = decided(admitted(2), decision(2, recommended=5))
    assert (after.desired, after.recommended, after.history) == (2, 5, [])


def test_what_was_not_placed_is_recorded_until_a_release() -> None:
    retry_time = NOW + timedelta(seconds=1, milliseconds=300)
    size = NotPlaced(workers=2, attempts=1, retry_time=retry_time)
    pool = Provisioning(pool="a100", attempts=1, retry_time=retry_time)
    new = decision(2, Reason.NOT_PLACED, not_placed=size, provisioning=pool)
    after = decided(admitted(4), new)
    assert after.not_placed is not None
    assert after.provisioning is not None
    assert after.not_placed.retry_time == NOW + timedelta(seconds=1)
    assert after.provisioning.retry_time == NOW + timedelta(seconds=1)
    released = release(after, "Suspended", "Suspended.")
    assert (released.not_placed, released.provisioning) == (None, None)


def test_the_history_is_bounded() -> None:
    scaling = ScalingStatus()
    for n in range(MAX_HISTORY + 5):
        scaling = decided(scaling, decision(n % 2 + 1))
    assert len(scaling.history) == MAX_HISTORY
    assert scaling.history[-1].to == scaling.desired


def test_a_backoff_is_recorded_and_stays_the_same() -> None:
    until = NOW + timedelta(minutes=2)
    backed_off = failed(admitted(3))
    assert (backed_off.desired, backed_off.reason) == (0, "StartTimedOut")
    assert backed_off.cooldown_end_time == until
    again = decided(backed_off, decision(0, Reason.START_TIMED_OUT, requeue_at=until))
    assert again.cooldown_end_time == backed_off.cooldown_end_time
    assert again.history == backed_off.history


def test_a_backoff_doubles_with_each_failed_start_up_to_the_longest() -> None:
    scaling, minutes = admitted(3), []
    for _ in range(8):
        scaling = failed(scaling)
        assert scaling.cooldown_end_time is not None
        minutes.append((scaling.cooldown_end_time - NOW) / timedelta(minutes=1))
    assert minutes == [2, 4, 8, 16, 32, 60, 60, 60]
    assert (scaling.failed_starts, scaling.last_failed_start_time) == (8, NOW)


def test_a_backoff_of_a_federation_doubles_too() -> None:
    admission = failed(failed(AdmissionStatus(parties=["ann"])))
    assert admission.cooldown_end_time == NOW + timedelta(minutes=4)
    assert (admission.failed_starts, admission.parties) == (2, [])


def test_the_count_of_failed_starts_stays_within_its_schema() -> None:
    scaling = failed(admitted(1, failed_starts=MAX_FAILED_STARTS))
    assert scaling.failed_starts == MAX_FAILED_STARTS
    assert scaling.cooldown_end_time == NOW + timedelta(hours=1)


def test_failed_starts_are_forgotten_once_the_job_trains() -> None:
    scaling = forget_failed_starts(failed(admitted(3)))
    assert (scaling.failed_starts, scaling.last_failed_start_time) == (0, None)
    assert forget_failed_starts(scaling) is scaling, "nothing to write"


def test_a_decision_does_not_forget_failed_starts() -> None:
    scaling = decided(failed(admitted(3)), decision(3, Reason.ADMITTED))
    assert (scaling.failed_starts, scaling.last_failed_start_time) == (1, NOW)


def test_a_released_job_has_no_workers() -> None:
    after = release(admitted(3, current=3), "Complete", "done")
    assert (after.desired, after.recommended, after.current) == (0, 0, 0)


def test_a_report_replaces_measurements_of_the_same_configuration_only() -> None:
    before = ScalingStatus(profile=[measured(1, 100), measured(2, 150)])
    after = record_report(before, report(measured(2, 190), measured(4, 300)))
    assert [(m.workers, m.samples_per_second) for m in after.profile] == [
        (1, 100),
        (2, 190),
        (4, 300),
    ]


def test_a_few_steps_of_a_restarted_coordinator_do_not_replace_a_good_measurement() -> None:
    before = ScalingStatus(profile=[measured(2, 150)])
    assert record_report(before, report(measured(2, 10, steps=1))).profile == before.profile


def test_the_profile_is_bounded_and_stable() -> None:
    many = [measured(1, 100, local_batch=n + 1) for n in range(MAX_PROFILE + 30)]
    first = record_report(ScalingStatus(), report(*many))
    assert len(first.profile) == MAX_PROFILE
    assert record_report(first, report(*many)) == first


def test_a_full_profile_keeps_its_base_its_largest_size_and_the_newest() -> None:
    old = [measured(n, 100 * n, steps=40) for n in (1, *range(3, MAX_PROFILE + 1), 200)]
    assert len(old) == MAX_PROFILE
    after = record_report(ScalingStatus(profile=old), report(measured(2, 190), measured(70, 99)))
    sizes = [m.workers for m in after.profile]
    assert len(sizes) == MAX_PROFILE
    assert {1, 2, 70, 200} <= set(sizes)
    assert sizes == sorted(sizes)


def test_of_more_measurements_than_fit_the_newest_of_a_report_are_kept() -> None:
    many = [measured(1, 100, local_batch=n + 1) for n in range(MAX_PROFILE + 30)]
    kept = [m.local_batch for m in record_report(ScalingStatus(), report(*many)).profile]
    assert {MAX_PROFILE + 29, MAX_PROFILE + 30} <= set(kept)


def test_the_last_change_gets_its_measured_speedup_once_both_sizes_are_measured() -> None:
    scaling = decided(admitted(2), decision(4))
    one_side = record_report(scaling, report(measured(4, 300)))
    assert one_side.measured_speedup is None
    both = record_report(one_side, report(measured(2, 200)))
    assert both.measured_speedup == both.history[-1].measured_speedup == 1.5
    later = record_report(both, report(measured(4, 900)))
    assert later.history == both.history, "a speed-up is measured once"


@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        pytest.param([measured(2, 100), measured(4, 180)], 1.8, id="measured"),
        pytest.param([measured(4, 180)], None, id="not before"),
        pytest.param([measured(2, 100), measured(4, 180, steps=4)], None, id="too few steps"),
        pytest.param([], None, id="nothing"),
        pytest.param(
            [measured(2, 100), measured(4, 100, 10), measured(4, 200, 30, nodes=2)],
            1.75,
            id="weighted by steps",
        ),
    ],
)
def test_the_speedup_of_two_to_four_workers(
    profile: list[Measurement], expected: float | None
) -> None:
    assert measured_speedup(profile, 2, 4) == expected


def report(*profile: Measurement) -> CoordinatorReport:
    return CoordinatorReport(
        at=NOW, term=1, members={"active": 2}, profile=profile, stall_seconds=0.123456
    )


def test_the_cost_of_the_last_rescale_is_rounded() -> None:
    assert record_report(ScalingStatus(), report()).stall_seconds == 0.1235


def test_the_figures_of_a_spread_are_rounded_to_six_digits() -> None:
    times = SampleTimes(blocks=9, mean=1.23456789e-5, deviation=9.87654321e-8)
    row = msgspec.structs.replace(measured(2, 190), sample_times=times)
    after = record_report(ScalingStatus(), report(row))
    assert after.profile[0].sample_times == SampleTimes(
        blocks=9, mean=1.23457e-5, deviation=9.87654e-8
    )


GAIN = Gain(before=2, after=4, before_speed=100.0, after_speed=150.0, min_gain=1.05)
MIDDLE = GrowthBelowExpectation(
    before=2, after=4, measured_speedup=1.3, expected_speedup=1.8, middle=3
)


def kept(workers: int, basis: Basis) -> Decision:
    return decision(workers, facts=SizeKept(workers=workers, basis=basis, shortage=None))


def resized(before: int, after: int, basis: Basis, **fields: Any) -> Decision:
    facts = SizeChanged(
        before=before,
        after=after,
        basis=basis,
        is_recommendation=False,
        added=None,
        expected_speedup=None,
        shortage=None,
    )
    return decision(after, facts=facts, **fields)


@pytest.mark.parametrize(
    ("proven", "made", "expected"),
    [
        pytest.param(2, kept(4, GrowthPaid(gain=GAIN)), 4, id="it pays"),
        pytest.param(2, kept(4, AtMaximum(workers=4)), 4, id="it pays at the maximum"),
        pytest.param(
            2,
            kept(4, CoolingDown(pending=GrowthPaid(gain=GAIN), until=NOW)),
            2,
            id="still on trial",
        ),
        pytest.param(2, kept(4, GrowthUncertain(gain=GAIN, until=NOW)), 2, id="not clear yet"),
        pytest.param(4, kept(4, LossUncertain(gain=GAIN)), 4, id="a loss that is not clear"),
        pytest.param(2, resized(4, 8, GrowthPaid(gain=GAIN)), 4, id="it grows on"),
        pytest.param(4, resized(4, 2, GrowthNoLongerPays(gain=GAIN)), 2, id="it is given back"),
        pytest.param(2, resized(4, 3, MIDDLE), 2, id="the middle is on trial itself"),
        pytest.param(4, resized(4, 3, MIDDLE), 2, id="so it is if the whole was proven"),
        pytest.param(4, decision(0, Reason.START_TIMED_OUT), 0, id="it is queued again"),
    ],
)
def test_the_size_found_to_pay_is_remembered(proven: int, made: Decision, expected: int) -> None:
    assert decided(admitted(4, proven=proven), made).proven == expected


def test_a_released_job_has_proven_nothing() -> None:
    assert release(admitted(3, proven=3), "Suspended", "suspended").proven == 0


def test_the_history_keeps_why_a_size_was_given_up() -> None:
    shrunk = decided(admitted(4), resized(4, 2, GrowthNoLongerPays(gain=GAIN)))
    assert shrunk.history[-1].message == shrunk.message
    assert "2→4 paid at first and clearly no longer does" in shrunk.message
    assert decided(shrunk, resized(2, 4, GrowthPaid(gain=GAIN))).history[-1].message == ""
