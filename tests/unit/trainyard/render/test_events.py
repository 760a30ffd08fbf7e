"""Events: one for each change that people wait for, with the message of the condition."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.support.jobs import NOW, admitted, at, condition, make_job
from tests.support.requests import decision
from trainyard.api.reasons import Reason
from trainyard.api.status import Change, DistributedJobStatus, ScalingStatus
from trainyard.render.events import EventSpec, decision_event, event, events_for
from trainyard.scheduling.basis import Gain, GrowthNoLongerPays
from trainyard.scheduling.facts import SizeChanged


def status(*conditions: dict[str, Any], **fields: Any) -> DistributedJobStatus:
    return msgspec.convert({"conditions": list(conditions), **fields}, DistributedJobStatus)


def events_of(before: DistributedJobStatus, after: DistributedJobStatus) -> list[tuple[str, str]]:
    return [(e.type, e.reason) for e in events_for(before, after)]


def stored(type_: str, value: str, reason: str, message: str = "why") -> dict[str, Any]:
    return {**condition(type_, "True", reason), "status": value, "message": message}


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        pytest.param(stored("Running", "True", "WorkersRunning"), [], id="runs"),
        pytest.param(stored("Admitted", "True", "Admitted"), [], id="admitted"),
        pytest.param(
            stored("Admitted", "False", "NoSuchNodes"), [("Normal", "NoSuchNodes")], id="waits"
        ),
        pytest.param(
            stored("Degraded", "True", "PodTrouble"), [("Warning", "PodTrouble")], id="trouble"
        ),
        pytest.param(
            stored("Failed", "True", "TaskInvalid"), [("Warning", "TaskInvalid")], id="failed"
        ),
        pytest.param(
            stored("Complete", "True", "TrainingComplete"),
            [("Normal", "TrainingComplete")],
            id="complete",
        ),
        pytest.param(
            stored("Complete", "True", "TrainingDiverged"),
            [("Warning", "TrainingDiverged")],
            id="complete, and diverged",
        ),
        pytest.param(
            stored("Diverged", "True", "NonFiniteLoss"), [("Warning", "NonFiniteLoss")], id="nan"
        ),
        pytest.param(stored("Degraded", "True", "PodTrouble", ""), [], id="without a message"),
    ],
)
def test_a_new_condition_gets_an_event_when_people_wait_for_it(
    after: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    assert events_of(status(), status(after)) == expected
    assert events_of(status(after), status(after)) == []


def test_a_changed_message_for_the_same_reason_gets_no_event() -> None:
    first = status(stored("Admitted", "False", "WaitingForGPUs", "3 jobs before it"))
    second = status(stored("Admitted", "False", "WaitingForGPUs", "2 jobs before it"))
    assert events_of(first, second) == []


def test_each_failure_gets_one_event() -> None:
    failures = [
        {"podName": "p", "podUID": str(n), "failureTime": at(), "message": f"m{n}"}
        for n in range(3)
    ]
    before, after = status(failures=failures[:1]), status(failures=failures)
    assert [e.message for e in events_for(before, after)] == ["m1", "m2"]
    assert events_of(after, after) == []


def test_a_measured_speedup_is_compared_with_the_expected_one() -> None:
    change = Change(from_=2, to=4, reason="GrowPays", decision_time=NOW, expected_speedup=1.8)
    measured = msgspec.structs.replace(change, measured_speedup=1.5)
    before = DistributedJobStatus(scaling=admitted(4, history=[change]))
    after = DistributedJobStatus(scaling=admitted(4, history=[measured]))
    (found,) = events_for(before, after)
    assert found.message == "2 → 4 workers: 1.5× the samples per second, expected 1.8×."
    assert events_of(after, after) == []


@pytest.mark.parametrize(
    ("before", "workers", "recommended", "expected"),
    [
        pytest.param(ScalingStatus(), 2, 2, None, id="an admission"),
        pytest.param(admitted(2), 4, 4, "GrowPays", id="a growth"),
        pytest.param(admitted(2), 2, 4, "Recommended", id="a recommendation"),
        pytest.param(admitted(2, recommended=4), 2, 4, None, id="the same recommendation"),
        pytest.param(admitted(2), 2, 2, None, id="no change"),
        pytest.param(admitted(2), 0, 0, None, id="GPUs released"),
    ],
)
def test_a_decision_gets_an_event_when(
    before: ScalingStatus, workers: int, recommended: int, expected: str | None
) -> None:
    made = decision(workers, recommended=recommended)
    notice = decision_event(before, made)
    assert (notice.reason if notice else None) == expected


def test_the_event_of_a_size_given_back_after_it_had_paid_has_both_speeds_and_their_spread() -> (
    None
):
    gain = Gain(
        before=2,
        after=4,
        before_speed=1690.4,
        after_speed=1622.1,
        min_gain=1.05,
        before_error=20.3,
        after_error=30.8,
        interval=(0.9, 1.02),
    )
    facts = SizeChanged(
        before=4,
        after=2,
        basis=GrowthNoLongerPays(gain=gain),
        is_recommendation=False,
        added=None,
        expected_speedup=1.042,
        shortage=None,
    )
    made = decision(2, Reason.SHRINK_DOES_NOT_PAY, facts=facts)
    assert decision_event(admitted(4), made) == EventSpec(
        type="Normal",
        reason="ShrinkDoesNotPay",
        message="2→4 paid at first and clearly no longer does: 0.96× (1690 ± 20.3→1622 ± 30.8 "
        "samples/s, 0.90× to 1.02× with 99 % confidence, minGain 1.05): shrinking 4→2, expected "
        "1.04×",
    )


def test_equal_events_in_the_same_second_have_the_same_name() -> None:
    job, spec = make_job(), EventSpec(type="Normal", reason="GrowPays", message="m" * 5000)
    first = event(job, spec, at(), "a")
    assert first["metadata"]["name"] == event(job, spec, at(), "b")["metadata"]["name"]
    assert len(first["message"]) <= 1024
    other = event(make_job(uid="a namesake"), spec, at(), "a")
    assert first["metadata"]["name"] != other["metadata"]["name"]
