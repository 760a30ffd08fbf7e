"""A state that went with its pods or its claim: it is said before training begins anew."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from tests.support.federations import admission, aggregator, make_federation, parties
from tests.support.federations import reported as federation_reported
from tests.support.jobs import (
    NOW,
    condition,
    condition_of,
    conditions_of,
    coordinator,
    ending,
    has_run,
    make_job,
    observe,
    worker,
)
from trainyard.api.conditions import Condition
from trainyard.api.jobs import DistributedJob, Job, Status
from trainyard.api.pods import Pod
from trainyard.api.report import CoordinatorReport
from trainyard.api.status import DistributedJobStatus
from trainyard.lifecycle.stages import evaluate
from trainyard.lifecycle.status import StatusInputs, is_urgent, status_of
from trainyard.render.events import events_for
from trainyard_trainer.contract.exits import Result

WITH_CLAIM = {"state": {"claimName": "digits-state"}}
TRAINED = {"term": 1, "step": 696}
STORED = {"term": 1, "step": 5003, "checkpointStep": 5000}
LOST = ("False", "StateLost")


def durability(job: Job, *pods: Pod, **observed: Any) -> Condition:
    return condition_of(evaluate(observe(job, *pods, **observed)), "StateDurable")


def written(job: Job, *pods: Pod, report: CoordinatorReport | None = None, **given: Any) -> Status:
    observed = observe(job, *pods, report=report, **given)
    return status_of(
        job,
        StatusInputs(
            desired=evaluate(observed),
            pods=observed.pods,
            assignment=observed.assignment,
            report=report,
            term=observed.pods.term,
            plan_generation=1,
            now=NOW,
        ),
    )


def warnings(before: Status, after: Status) -> list[str]:
    lost = [e for e in events_for(before, after) if e.reason == "StateLost"]
    assert all(e.type == "Warning" for e in lost)
    return [e.message for e in lost]


def suspended(**status: Any) -> dict[str, Any]:
    conditions = [condition("Suspended"), condition("Running", "False")]
    return has_run(conditions=conditions, **{"training": TRAINED, **status})


def test_a_suspended_job_without_its_coordinator_says_that_the_state_is_lost() -> None:
    job = make_job({"suspend": True}, suspended())
    assert durability(job, coordinator()).reason == "NoClaim"
    lost = durability(job)
    assert (lost.status, lost.reason) == LOST
    assert "the state of step 696" in lost.message
    assert "spec.state.claimName" in lost.message
    assert warnings(job.status, written(job)) == [lost.message]


def test_the_loss_is_shown_until_the_job_trains_again() -> None:
    job = make_job({"suspend": True}, suspended())
    lost = with_status(job, written(job))
    job = replace(lost, spec=msgspec.structs.replace(lost.spec, suspend=False))
    pods = (coordinator(2), worker(0, 2))
    starting = durability(job, *pods)
    assert starting.reason == "StateLost"
    again = with_status(job, written(job, *pods, report=report_of(term=2)))
    assert warnings(job.status, again.status) == []
    assert durability(again, *pods, report=report_of(term=2)).reason == "NoClaim"


def with_status(job: DistributedJob, status: Status) -> DistributedJob:
    assert isinstance(status, DistributedJobStatus)
    return replace(job, status=status)


def report_of(**fields: Any) -> CoordinatorReport:
    return CoordinatorReport(at=NOW, wire=1, members={"active": 1}, **fields)


@pytest.mark.parametrize(
    ("spec", "status", "pods"),
    [
        pytest.param({}, has_run(training=TRAINED), (worker(),), id="a worker holds it"),
        pytest.param(WITH_CLAIM, has_run(training=TRAINED), (), id="the claim holds it"),
        pytest.param({}, has_run(training={"term": 1}), (), id="nothing was trained"),
        pytest.param({}, {}, (), id="it has not started"),
    ],
)
def test_a_state_that_is_not_lost_is_not_called_so(
    spec: dict[str, Any], status: dict[str, Any], pods: tuple[Pod, ...]
) -> None:
    assert durability(make_job(spec, status), *pods).reason in ("NoClaim", "Claim")


def test_a_running_job_that_lost_all_its_pods_says_so() -> None:
    assert durability(make_job(status=has_run(training=TRAINED))).reason == "StateLost"


def test_a_federation_without_a_claim_loses_its_rounds_with_the_aggregator() -> None:
    job = make_federation(status=has_run(training={"term": 1, "round": 12}))
    kept = durability(job, aggregator(), *parties(), assignment=admission())
    assert kept.reason == "NoClaim"
    lost = durability(job, *parties(), assignment=admission())
    assert (lost.status, lost.reason) == LOST
    assert "round 12" in lost.message


@pytest.mark.parametrize(
    ("found", "expected"),
    [(-1, "finds none there: training goes back to step 0"), (3000, "that of step 3000")],
)
def test_a_claim_without_the_last_checkpoint_is_told_at_once(found: int, expected: str) -> None:
    job = make_job(WITH_CLAIM, has_run(training=STORED))
    report = report_of(term=2, checkpoint_step=found)
    after = written(job, coordinator(2), worker(0, 2), report=report)
    (message,) = warnings(job.status, after)
    assert "The state of step 5000 had been stored" in message
    assert expected in message
    assert is_urgent(job.status, after)
    assert warnings(after, after) == []


@pytest.mark.parametrize(
    "report",
    [
        pytest.param(report_of(term=2, checkpoint_step=5000), id="the same checkpoint"),
        pytest.param(report_of(term=1, checkpoint_step=-1), id="the same coordinator"),
        pytest.param(None, id="no report"),
    ],
)
def test_a_claim_that_has_it_leaves_no_warning(report: CoordinatorReport | None) -> None:
    job = make_job(WITH_CLAIM, has_run(training=STORED))
    after = written(job, coordinator(2), worker(0, 2), report=report)
    assert warnings(job.status, after) == []


def test_an_emptied_claim_of_a_federation_is_told() -> None:
    job = make_federation(WITH_CLAIM, has_run(training={"term": 1, "round": 12}))
    report = federation_reported(0, term=2)
    after = written(job, aggregator(2), *parties(), report=report, assignment=admission())
    (message,) = warnings(job.status, after)
    assert "round 12 had been stored" in message


def complete(**spec: Any) -> Job:
    return make_job(spec, has_run(conditions=[condition("Complete")], completionTime=None))


def test_a_complete_job_says_when_its_only_result_is_gone() -> None:
    job = complete()
    assert "StateDurable" not in conditions_of(evaluate(observe(job, coordinator())))
    ended = coordinator(**ending(Result.COMPLETE))
    assert "StateDurable" not in conditions_of(evaluate(observe(job, ended)))
    lost = durability(job)
    assert (lost.status, lost.reason) == LOST
    assert "only copy of the result" in lost.message
    assert warnings(job.status, written(job)) == [lost.message]
    assert evaluate(observe(complete(**WITH_CLAIM))).conditions == ()
