"""What decisions and reports change in `status.scaling`."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.support.jobs import NOW, admitted
from tests.support.requests import decision
from trainyard.api.reasons import Reason
from trainyard.api.report import CoordinatorReport
from trainyard.api.spec import Scaling
from trainyard.api.status import Change, Measurement, ScalingStatus
from trainyard.scheduling.assignment import (
    MAX_HISTORY,
    MAX_PROFILE,
    back_off,
    measured_speedup,
    record_decision,
    record_report,
    release,
)
from trainyard.scheduling.decision import Decision


def decided(before: ScalingStatus, new: Decision) -> ScalingStatus:
    return record_decision(before, new, Scaling(cooldown="90s"), NOW)


def measured(workers: int, rate: float, steps: int = 50, **fields: int) -> Measurement:
    values = {"nodes": 1, "local_batch": 64, **fields}
    return Measurement(workers=workers, samples_per_second=rate, steps=steps, **values)


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


def test_the_history_is_bounded() -> None:
    scaling = ScalingStatus()
    for n in range(MAX_HISTORY + 5):
        scaling = decided(scaling, decision(n % 2 + 1))
    assert len(scaling.history) == MAX_HISTORY
    assert scaling.history[-1].to == scaling.desired


def test_a_backoff_is_recorded_and_stays_the_same() -> None:
    until = NOW + timedelta(minutes=2)
    backed_off = back_off(admitted(3), timedelta(minutes=2), "not running in time", NOW)
    assert (backed_off.desired, backed_off.reason) == (0, "StartTimedOut")
    assert backed_off.cooldown_end_time == until
    again = decided(backed_off, decision(0, Reason.START_TIMED_OUT, requeue_at=until))
    assert again.cooldown_end_time == backed_off.cooldown_end_time
    assert again.history == backed_off.history


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
