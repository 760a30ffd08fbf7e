"""A coordinator that operator or members do not reach: its condition, and its one replacement."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.support.federations import admission, aggregator, make_federation, parties
from tests.support.federations import reported as federation_reported
from tests.support.jobs import (
    NOW,
    TIMEOUTS,
    ago,
    condition,
    condition_of,
    conditions_of,
    coordinator,
    has_run,
    job_pods,
    make_job,
    observe,
    worker,
)
from trainyard.api.jobs import DistributedJob
from trainyard.api.pods import Pod
from trainyard.api.report import NO_CONTACT, Contact, CoordinatorReport
from trainyard.lifecycle.desired import DesiredState
from trainyard.lifecycle.diff import pod_actions
from trainyard.lifecycle.reachability import answered, failed
from trainyard.lifecycle.stages import evaluate

WITH_CLAIM = {"state": {"claimName": "digits-state"}}
TROUBLE = "CoordinatorReachable"
UNSEEN = CoordinatorReport(at=NOW, wire=1, term=1, members={"active": 0, "warming": 0})
SEEN = CoordinatorReport(at=NOW, wire=1, term=1, step=7, members={"active": 1})
GRACE, DEGRADED, REPLACED = (
    TIMEOUTS.unreachable_grace,
    TIMEOUTS.unreachable_timeout,
    TIMEOUTS.replace_timeout,
)


def reachable(
    contact: Contact,
    *,
    job: DistributedJob | None = None,
    pods: tuple[Pod, ...] | None = None,
    report: CoordinatorReport | None = None,
    after: timedelta = timedelta(),
) -> DesiredState:
    """What follows from a contact, some time after `NOW`."""
    job = job or make_job(WITH_CLAIM, has_run())
    pods = pods or (coordinator(), worker())
    return evaluate(observe(job, *pods, report=report, contact=contact, now=NOW + after))


def silent(pod: Pod | None = None, since: datetime = NOW) -> Contact:
    return Contact(pod_uid=(pod or coordinator()).uid, failing_since=since)


def without_members(since: datetime = NOW) -> Contact:
    return Contact(pod_uid=coordinator().uid, has_answered=True, without_members_since=since)


def test_it_is_unknown_before_the_first_answer_and_true_after_it() -> None:
    asked = failed(Contact(pod_uid=coordinator().uid), NOW)
    for contact in (NO_CONTACT, asked):
        assert conditions_of(reachable(contact))[TROUBLE] == ("Unknown", "Connecting")
    contact = answered(asked, SEEN, job_pods(coordinator(), worker()))
    assert conditions_of(reachable(contact))[TROUBLE] == ("True", "Answers")


@pytest.mark.parametrize(
    ("contact", "reason", "advice"),
    [
        (silent(), "NoAnswer", "network policies let the operator reach its port 7430"),
        (without_members(), "NoMembers", "none is connected to the coordinator"),
    ],
)
def test_trouble_is_told_then_degrades_the_job_then_replaces_the_coordinator(
    contact: Contact, reason: str, advice: str
) -> None:
    moment = timedelta(seconds=1)
    for after, expected in (
        (GRACE - moment, (("Unknown", "Connecting"), ("False", "Healthy"), False)),
        (GRACE, (("False", reason), ("False", "Healthy"), False)),
        (DEGRADED, (("False", reason), ("True", "CoordinatorUnreachable"), False)),
        (REPLACED - moment, (("False", reason), ("True", "CoordinatorUnreachable"), False)),
        (REPLACED, (("False", reason), ("True", "CoordinatorUnreachable"), True)),
    ):
        desired = reachable(contact, after=after)
        found = conditions_of(desired)
        assert (found[TROUBLE], found["Degraded"], desired.pods.replace_coordinator) == expected
    assert advice in condition_of(desired, TROUBLE).message
    assert advice in condition_of(desired, "Degraded").message


def test_a_job_is_requeued_for_each_step_of_its_trouble() -> None:
    times = [NOW + GRACE, NOW + DEGRADED, NOW + REPLACED]
    found = []
    desired = reachable(silent())
    while desired.requeue_at is not None:
        found.append(desired.requeue_at)
        desired = reachable(silent(), after=desired.requeue_at - NOW)
    assert found == times


def test_one_missed_answer_changes_nothing() -> None:
    job = make_job(WITH_CLAIM, has_run(conditions=[condition(TROUBLE, "True", "Answers")]))
    desired = reachable(silent(), job=job, after=GRACE / 2)
    assert conditions_of(desired)[TROUBLE] == ("True", "Answers")


def unreached(since: datetime = NOW) -> list[dict[str, Any]]:
    return [condition("Running"), condition(TROUBLE, "False", "NoAnswer", since=since)]


def test_the_replacement_is_not_replaced_until_a_coordinator_was_reachable_again() -> None:
    second = coordinator(2, created_at=NOW + REPLACED)
    pods = (second, worker())
    job = make_job(WITH_CLAIM, has_run(term=2, conditions=unreached(NOW + GRACE)))
    asked = silent(second, since=NOW + REPLACED)
    for after in (REPLACED, 2 * REPLACED, timedelta(hours=9)):
        desired = reachable(asked, job=job, pods=pods, after=after)
        assert conditions_of(desired)[TROUBLE] == ("False", "NoAnswer")
        assert conditions_of(desired)["Degraded"] == ("True", "CoordinatorUnreachable")
        assert not desired.pods.replace_coordinator
    assert "It was replaced once" in condition_of(desired, TROUBLE).message
    contact = answered(asked, replace(SEEN, term=2), job_pods(*pods))
    desired = reachable(contact, job=job, pods=pods, after=2 * REPLACED)
    assert conditions_of(desired)[TROUBLE] == ("True", "Answers")
    job = make_job(WITH_CLAIM, has_run(term=2, conditions=[condition(TROUBLE)]))
    again = silent(second, since=NOW + 2 * REPLACED)
    assert reachable(again, job=job, pods=pods, after=3 * REPLACED).pods.replace_coordinator


def test_what_was_wrong_stands_until_something_else_has_lasted() -> None:
    second = coordinator(2, created_at=NOW + REPLACED)
    was = [condition("Running"), condition(TROUBLE, "False", "NoMembers", since=NOW)]
    job, pods = make_job(WITH_CLAIM, has_run(term=2, conditions=was)), (second, worker())
    begun = NOW + REPLACED + timedelta(seconds=1)
    starting = silent(second, since=begun)
    desired = reachable(starting, job=job, pods=pods, after=begun - NOW)
    assert conditions_of(desired)[TROUBLE] == ("False", "NoMembers")
    assert desired.requeue_at == begun + GRACE
    desired = reachable(starting, job=job, pods=pods, after=begun + GRACE - NOW)
    assert conditions_of(desired)[TROUBLE] == ("False", "NoAnswer")


def test_another_operator_waits_for_its_own_attempts() -> None:
    """It knows only the condition: whether the coordinator answers now, it has to try."""
    job = make_job(WITH_CLAIM, has_run(conditions=unreached(ago(hours=0.5))))
    assert not reachable(NO_CONTACT, job=job).pods.replace_coordinator
    assert conditions_of(reachable(NO_CONTACT, job=job))[TROUBLE] == ("False", "NoAnswer")
    assert reachable(silent(), job=job).pods.replace_coordinator


@pytest.mark.parametrize(
    ("kept_by", "spec", "report", "trained", "is_replaced"),
    [
        ("a claim", WITH_CLAIM, SEEN, "", True),
        ("nobody, as nothing was trained", {}, UNSEEN, "", True),
        ("a worker that was active in it", {}, SEEN, "worker-0-1", True),
        ("the coordinator alone, for all that is known", {}, SEEN, "", False),
        ("the coordinator, from which new workers start", {}, SEEN, "worker-0-0", False),
    ],
)
def test_a_coordinator_that_may_hold_the_only_copy_is_not_replaced(
    kept_by: str,
    spec: dict[str, Any],
    report: CoordinatorReport,
    trained: str,
    is_replaced: bool,
) -> None:
    contact = replace(silent(), trained=frozenset([trained]))
    desired = reachable(contact, job=make_job(spec, has_run()), report=report, after=REPLACED)
    assert desired.pods.replace_coordinator is is_replaced
    assert ("only copy" in condition_of(desired, TROUBLE).message) is not is_replaced


def test_the_replaced_coordinator_is_deleted_and_succeeded_by_the_next_term() -> None:
    desired, first = reachable(silent(), after=REPLACED), coordinator()
    actions = pod_actions(desired.pods, job_pods(first, worker()), frozenset(), 1, NOW)
    assert (actions.delete, actions.create) == ((first,), ())
    pods = job_pods(replace(first, is_deleting=True), worker())
    [created] = pod_actions(desired.pods, pods, frozenset(), 1, NOW).create
    assert (created.role, created.attempt) == ("coordinator", 2)


def test_a_report_without_members_is_trouble_only_while_members_run() -> None:
    pods = job_pods(coordinator(), worker(phase="Pending"))
    contact = Contact(pod_uid=coordinator().uid, failing_since=NOW)
    assert answered(contact, UNSEEN, pods).without_members_since is None
    pods = job_pods(coordinator(), worker())
    first = answered(contact, UNSEEN, pods)
    assert first.without_members_since == NOW
    later = replace(UNSEEN, at=NOW + timedelta(minutes=1))
    assert answered(first, later, pods).without_members_since == NOW
    assert answered(first, SEEN, pods).without_members_since is None
    assert answered(first, replace(UNSEEN, members={}), pods).without_members_since is None
    assert answered(first, replace(UNSEEN, outcome="Complete"), pods).without_members_since is None


def test_an_aggregator_whose_parties_are_all_absent_is_not_reachable() -> None:
    pods, contact = job_pods(aggregator(), *parties()), Contact(pod_uid=aggregator().uid)
    report = federation_reported()
    assert report.federation is not None
    absent = {name: replace(p, state="Absent") for name, p in report.federation.parties.items()}
    assert absent
    lost = replace(report, federation=replace(report.federation, parties=absent))
    assert answered(contact, lost, pods).without_members_since == NOW
    assert answered(contact, report, pods).without_members_since is None
    job = make_federation(status=has_run())
    observed = observe(
        job,
        aggregator(),
        *parties(),
        assignment=admission(),
        contact=answered(contact, lost, pods),
        report=lost,
        now=NOW + REPLACED,
    )
    desired = evaluate(observed)
    assert conditions_of(desired)[TROUBLE] == ("False", "NoMembers")
    assert "The parties run, and none is connected" in condition_of(desired, TROUBLE).message
    assert not desired.pods.replace_coordinator, "without a claim it is the only copy"


def test_a_refused_plan_degrades_the_job_with_the_coordinators_reason() -> None:
    contact = Contact(pod_uid=coordinator().uid, has_answered=True, refusal="plan.workers: no")
    desired = reachable(contact)
    assert conditions_of(desired)["Degraded"] == ("True", "PlanRefused")
    assert "refuses the Plan: plan.workers: no." in condition_of(desired, "Degraded").message


@pytest.mark.parametrize("spec", [{"suspend": True}, {"activeDeadlineSeconds": 60}])
def test_nobody_asks_the_coordinator_of_a_job_that_does_not_run(spec: dict[str, Any]) -> None:
    job = make_job(spec, {**has_run(conditions=unreached()), "conditions": unreached()})
    desired = evaluate(observe(job, coordinator(), contact=silent(), now=NOW + timedelta(hours=2)))
    assert conditions_of(desired)[TROUBLE][0] == "Unknown"
