"""What one process knows of a job: how each part changes."""

from __future__ import annotations

from datetime import timedelta

from tests.support.jobs import NOW, TIMEOUTS, admitted, make_job
from tests.support.requests import decision
from trainyard.api.reasons import Reason
from trainyard.api.status import ScalingStatus
from trainyard.reconcile.state import (
    AssignmentState,
    ChildrenState,
    CoordinatorLink,
    PlanDelivery,
)
from trainyard.scheduling.conversion import request_of
from trainyard_trainer.contract.plan import Plan

TWO, FOUR = Plan(generation=1, workers=2), Plan(generation=1, workers=4)
STEADY = decision(2, Reason.STEADY)


def test_new_content_gets_the_generation_after_the_last_one() -> None:
    link = CoordinatorLink(plan_generation=6)
    link.set_plan(TWO)
    assert link.plan == Plan(generation=7, workers=2)
    link.set_plan(Plan(generation=7, workers=2))
    assert link.plan_generation == 7
    link.set_plan(FOUR)
    assert (link.plan, link.plan_generation) == (Plan(generation=8, workers=4), 8)


def test_new_content_goes_beyond_the_plan_that_the_coordinator_acknowledged() -> None:
    link = CoordinatorLink(plan_generation=1, acknowledged=PlanDelivery("coordinator-0-1", 9))
    link.set_plan(FOUR)
    assert link.plan == Plan(generation=10, workers=4)


def test_a_plan_after_none_gets_a_new_generation() -> None:
    link = CoordinatorLink(plan_generation=0)
    link.set_plan(TWO)
    link.set_plan(None)
    assert link.plan is None
    link.set_plan(TWO)
    assert link.plan == Plan(generation=2, workers=2)


def test_a_decision_that_changes_nothing_keeps_the_same_object() -> None:
    assignment = AssignmentState(admitted(1))
    assignment.decide(make_job(), STEADY, NOW)
    decided = assignment.value
    assert decided.desired == 2
    assignment.decide(make_job(), STEADY, NOW + timedelta(minutes=1))
    assert assignment.value is decided


def test_only_the_first_release_gives_its_reason() -> None:
    assignment = AssignmentState(admitted(2))
    assignment.release("Suspended", "Suspended.")
    assert (assignment.value.desired, assignment.value.reason) == (0, "Suspended")
    assignment.release("Complete", "The job has ended.")
    assert assignment.value.reason == "Suspended"


def test_a_job_that_is_suspended_while_it_backs_off_is_queued_at_once_when_resumed() -> None:
    """As by a user who has mended what kept it from starting."""
    assignment = AssignmentState(admitted(2))
    assignment.back_off(TIMEOUTS, "its image is missing", NOW)
    assert assignment.value.reason == Reason.START_TIMED_OUT
    assignment.release("Suspended", "Suspended.")
    assert assignment.value.reason == "Suspended"
    assert request_of(make_job(), assignment.value, None, {}).backoff_until is None
    assert isinstance(assignment.value, ScalingStatus)
    assert assignment.value.failed_starts == 1, "its next back-off is longer all the same"


def test_a_job_that_was_never_assigned_anything_takes_the_reason_of_its_release() -> None:
    assignment = AssignmentState(ScalingStatus())
    assignment.release("Pending", "Not supported.")
    assert (assignment.value.reason, assignment.value.message) == ("Pending", "Not supported.")


def test_children_expire_only_after_they_were_ensured_once() -> None:
    children = ChildrenState()
    children.expire(NOW)
    assert children.valid_until is None
    children.valid_until = NOW + timedelta(hours=1)
    children.expire(NOW)
    assert children.valid_until == NOW
