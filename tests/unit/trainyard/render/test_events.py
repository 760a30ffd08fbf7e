"""What people are told: what changed, once, in the words of the conditions."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.support.jobs import NOW, admitted, at, condition, make_job
from tests.support.requests import decision
from trainyard.api.status import Change, DistributedJobStatus, ScalingStatus
from trainyard.render.events import EventSpec, decision_event, event, events_for


def status(*conditions: dict[str, Any], **fields: Any) -> DistributedJobStatus:
    return msgspec.convert({"conditions": list(conditions), **fields}, DistributedJobStatus)


def told(before: DistributedJobStatus, after: DistributedJobStatus) -> list[tuple[str, str]]:
    return [(n.type, n.reason) for n in events_for(before, after)]


def said(type_: str, value: str, reason: str, message: str = "why") -> dict[str, Any]:
    return {**condition(type_, "True", reason), "status": value, "message": message}


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        pytest.param(said("Running", "True", "WorkersRunning"), [], id="runs"),
        pytest.param(said("Admitted", "True", "Admitted"), [], id="admitted"),
        pytest.param(
            said("Admitted", "False", "NoSuchNodes"), [("Normal", "NoSuchNodes")], id="waits"
        ),
        pytest.param(
            said("Degraded", "True", "PodTrouble"), [("Warning", "PodTrouble")], id="trouble"
        ),
        pytest.param(
            said("Failed", "True", "TaskInvalid"), [("Warning", "TaskInvalid")], id="failed"
        ),
        pytest.param(
            said("Complete", "True", "TrainingComplete"),
            [("Normal", "TrainingComplete")],
            id="complete",
        ),
        pytest.param(said("Degraded", "True", "PodTrouble", ""), [], id="without words"),
    ],
)
def test_a_new_condition_is_told_when_people_wait_for_it(
    after: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    assert told(status(), status(after)) == expected
    assert told(status(after), status(after)) == []


def test_another_sentence_for_the_same_reason_is_no_news() -> None:
    first = status(said("Admitted", "False", "WaitingForGPUs", "3 jobs before it"))
    second = status(said("Admitted", "False", "WaitingForGPUs", "2 jobs before it"))
    assert told(first, second) == []


def test_each_failure_is_told_once() -> None:
    failures = [{"pod": "p", "uid": str(n), "at": at(), "message": f"m{n}"} for n in range(3)]
    before, after = status(failures=failures[:1]), status(failures=failures)
    assert [n.message for n in events_for(before, after)] == ["m1", "m2"]
    assert told(after, after) == []


def test_a_measured_speedup_is_told_beside_the_expected_one() -> None:
    change = Change(from_=2, to=4, reason="GrowPays", decided_at=NOW, expected_speedup=1.8)
    measured = msgspec.structs.replace(change, measured_speedup=1.5)
    before = DistributedJobStatus(scaling=admitted(4, history=[change]))
    after = DistributedJobStatus(scaling=admitted(4, history=[measured]))
    (notice,) = events_for(before, after)
    assert notice.message == "2 → 4 workers: 1.5× the samples per second, expected 1.8×."
    assert told(after, after) == []


@pytest.mark.parametrize(
    ("before", "workers", "recommended", "expected"),
    [
        pytest.param(ScalingStatus(), 2, 2, None, id="an admission is seen"),
        pytest.param(admitted(2), 4, 4, "GrowPays", id="a growth"),
        pytest.param(admitted(2), 2, 4, "Recommended", id="an advice"),
        pytest.param(admitted(2, recommended=4), 2, 4, None, id="the same advice"),
        pytest.param(admitted(2), 2, 2, None, id="no change"),
        pytest.param(admitted(2), 0, 0, None, id="GPUs given back"),
    ],
)
def test_a_decision_is_told_when(
    before: ScalingStatus, workers: int, recommended: int, expected: str | None
) -> None:
    made = decision(workers, recommended=recommended)
    notice = decision_event(before, made)
    assert (notice.reason if notice else None) == expected


def test_the_same_news_in_the_same_second_is_the_same_event() -> None:
    job, notice = make_job(), EventSpec(type="Normal", reason="GrowPays", message="m" * 5000)
    first = event(job, notice, at(), "a")
    assert first["metadata"]["name"] == event(job, notice, at(), "b")["metadata"]["name"]
    assert len(first["message"]) <= 1024
    other = event(make_job(uid="a namesake"), notice, at(), "a")
    assert first["metadata"]["name"] != other["metadata"]["name"]
