"""A job that runs without making steps is Degraded, and nothing is replaced."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from tests.support.jobs import (
    NOW,
    TIMEOUTS,
    ago,
    condition_of,
    conditions_of,
    coordinator,
    has_run,
    make_job,
    observe,
    worker,
)
from tests.support.scenarios.scenario import reported
from trainyard.api.report import Contact, CoordinatorReport
from trainyard.lifecycle.desired import DesiredState
from trainyard.lifecycle.stages import evaluate

LIMIT = TIMEOUTS.stalled_after
LONG_AGO = ago(hours=2)


def stuck(since: datetime, usual: float | None = 0.5) -> CoordinatorReport:
    return reported(1, step=9, last_step_at=since, usual_step_seconds=usual)


def running(
    report: CoordinatorReport,
    *,
    running_since: datetime = LONG_AGO,
    created_at: datetime = LONG_AGO,
    contact: Contact | None = None,
) -> DesiredState:
    pods = (coordinator(created_at=created_at), worker())
    job = make_job(status=has_run(since=running_since))
    contact = contact or Contact(pod_uid=pods[0].uid, has_answered=True)
    return evaluate(observe(job, *pods, report=report, contact=contact))


def test_a_job_without_a_step_for_five_minutes_is_degraded_and_keeps_its_pods() -> None:
    desired = running(stuck(NOW - LIMIT))
    assert conditions_of(desired)["Degraded"] == ("True", "Stalled")
    assert "a step usually takes 0.5 s" in condition_of(desired, "Degraded").message
    assert not desired.pods.replace_coordinator


@pytest.mark.parametrize(
    ("report", "running_since", "created_at"),
    [
        pytest.param(stuck(ago(minutes=4)), LONG_AGO, LONG_AGO, id="it makes steps"),
        pytest.param(stuck(ago(minutes=9), 60.0), LONG_AGO, LONG_AGO, id="its steps are long"),
        pytest.param(stuck(LONG_AGO), ago(minutes=4), LONG_AGO, id="it runs since 4 minutes"),
        pytest.param(stuck(LONG_AGO), LONG_AGO, ago(minutes=4), id="its coordinator is new"),
        pytest.param(stuck(NOW + LIMIT), LONG_AGO, LONG_AGO, id="its clock is ahead"),
        pytest.param(
            replace(stuck(LONG_AGO), outcome="Suspended"), LONG_AGO, LONG_AGO, id="it has ended"
        ),
    ],
)
def test_a_job_that_may_still_make_its_next_step_is_healthy(
    report: CoordinatorReport, running_since: datetime, created_at: datetime
) -> None:
    desired = running(report, running_since=running_since, created_at=created_at)
    assert conditions_of(desired)["Degraded"] == ("False", "Healthy")


def test_a_job_with_long_steps_is_stalled_after_ten_of_them() -> None:
    desired = running(stuck(ago(minutes=10), 60.0))
    assert conditions_of(desired)["Degraded"] == ("True", "Stalled")


def test_a_job_that_never_made_a_step_is_stalled_from_when_it_ran() -> None:
    desired = running(reported(1), running_since=NOW - LIMIT)
    assert conditions_of(desired)["Degraded"] == ("True", "Stalled")


def test_nothing_is_known_of_steps_while_the_coordinator_does_not_answer() -> None:
    contact = Contact(pod_uid=coordinator().uid, failing_since=NOW - timedelta(seconds=20))
    assert conditions_of(running(stuck(LONG_AGO), contact=contact))["Degraded"][1] == "Healthy"
