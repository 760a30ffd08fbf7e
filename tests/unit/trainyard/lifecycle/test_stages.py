"""The stages of a job: what is observed in, the desired pods, conditions and messages out."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from tests.support.jobs import (
    NOW,
    ago,
    at,
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
from tests.support.scenarios import SCENARIOS
from tests.support.scenarios.scenario import WITH_CLAIM, Scenario, reported
from trainyard.api.jobs import DistributedJob
from trainyard.api.status import DistributedJobStatus
from trainyard.lifecycle.conditions import with_refusal
from trainyard.lifecycle.desired import DesiredPods, DesiredState, Phase
from trainyard.lifecycle.observation import Observation
from trainyard.lifecycle.stages import evaluate
from trainyard.lifecycle.status import StatusInputs, status_of
from trainyard.scheduling.assignment import release
from trainyard_trainer.contract.exits import Result


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS.keys())
def test_each_observation_leads_to_its_stage(scenario: Scenario) -> None:
    desired = evaluated(scenario)
    assert desired.phase is scenario.phase
    assert scenario.conditions.items() <= conditions_of(desired).items()
    if scenario.desired_pods is not None:
        assert desired.pods == scenario.desired_pods
    if scenario.message[0]:
        assert scenario.message[1] in condition_of(desired, scenario.message[0]).message
    if desired.requeue_at is not None or scenario.requeue_at is not None:
        assert desired.requeue_at == scenario.requeue_at
        assert desired.requeue_at is not None
        assert desired.requeue_at > scenario.now, "a time that is past spins"


def evaluated(scenario: Scenario) -> DesiredState:
    job = make_job(scenario.spec, scenario.status)
    return evaluate(
        observe(
            job,
            *scenario.pods,
            assignment=scenario.assignment,
            report=scenario.report,
            now=scenario.now,
        )
    )


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS.keys())
def test_the_same_observation_gives_the_same_status_once_it_is_written(
    scenario: Scenario,
) -> None:
    """What is written may not change what is desired next, or the status would never settle."""
    job = make_job(scenario.spec, scenario.status)
    if evaluated(scenario).release:
        return  # the scheduler's side of the status changes with it
    for _ in range(2):
        observed = observe(
            job, *scenario.pods, assignment=scenario.assignment, report=scenario.report, now=NOW
        )
        first, job = job, written(observed, evaluate(observed))
    assert job.status == first.status


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS.keys())
def test_a_job_is_requeued_in_time_for_what_is_due_once_its_status_is_written(
    scenario: Scenario,
) -> None:
    """No event follows from our own status: nothing else would requeue the job in time."""
    job = make_job({**scenario.spec, "ttlSecondsAfterFinished": 5}, scenario.status)
    observe_now = partial(observe, report=scenario.report, now=scenario.now)
    observed = observe_now(job, *scenario.pods, assignment=scenario.assignment)
    desired = evaluate(observed)
    released = release(scenario.assignment, desired.phase, desired.release)
    assignment = released if desired.release else scenario.assignment
    job = written(observed, desired)
    after = evaluate(observe_now(job, *scenario.pods, assignment=assignment))
    if after.requeue_at is not None:
        assert desired.requeue_at is not None
        assert desired.requeue_at <= after.requeue_at + timedelta(seconds=1), (
            "stored in whole seconds"
        )
    assert after.pods == desired.pods


def written(observed: Observation, desired: DesiredState) -> DistributedJob:
    """The job once its status is written."""
    assert isinstance(observed.job, DistributedJob)
    inputs = StatusInputs(
        desired=desired,
        pods=observed.pods,
        assignment=observed.assignment,
        report=observed.report,
        term=observed.pods.term,
        plan_generation=0,
        now=observed.now,
    )
    status = status_of(observed.job, inputs)
    assert isinstance(status, DistributedJobStatus)
    return replace(observed.job, status=status)


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"sync": {"algorithm": "DiLoCo"}}, "spec.sync.algorithm (use AllReduce)"),
        ({"sync": {"interval": 4}}, "spec.sync.interval (use 1)"),
        ({"sync": {"compression": "FP16"}}, "spec.sync.compression (use None)"),
        ({"training": {"precision": "BF16"}}, "spec.training.precision (use FP32)"),
        ({"training": {"maxBatchSize": 9}}, "spec.training.maxBatchSize (leave it out)"),
        ({"scaling": {"policy": "Goodput"}}, "spec.scaling.policy (use Throughput or Manual)"),
        ({"scaling": {"weight": 2}}, "spec.scaling.weight (use 1)"),
        ({"failure": {"hungAfterSteps": 3}}, "spec.failure.hungAfterSteps (leave it out)"),
        ({"adjustments": {"batch": {}}}, "spec.adjustments (leave it out)"),
        ({"candidates": [{"name": "a"}]}, "spec.candidates (leave it out)"),
        ({"selection": {"metric": "eval/a"}}, "spec.selection (leave it out)"),
        ({"workers": {"allowed": [1, 2]}}, "spec.workers.allowed (use min and max)"),
        ({"failure": {"retry": "Discard"}}, "spec.failure.retry (use Step)"),
        ({"failure": {"rules": [{"action": "FailJob"}]}}, "spec.failure.rules (leave it out)"),
        (
            {"failure": {"replaceStragglers": True}},
            "spec.failure.replaceStragglers (use false)",
        ),
    ],
)
def test_an_unsupported_field_is_rejected_by_name(spec: dict[str, Any], field: str) -> None:
    desired = evaluate(observe(make_job(spec)))
    assert (desired.phase, desired.pods) == (Phase.PENDING, DesiredPods())
    assert conditions_of(desired) == {"Accepted": ("False", "NotSupportedYet")}
    assert field in condition_of(desired, "Accepted").message


def test_an_unsupported_field_does_not_stop_a_job_that_trains() -> None:
    job = make_job({"failure": {"replaceStragglers": True}}, has_run())
    desired = evaluate(observe(job, coordinator(), worker()))
    assert desired.phase is Phase.RUNNING
    assert desired.pods == DesiredPods(coordinator=True, members=range(1))
    assert conditions_of(desired)["Accepted"] == ("False", "NotSupportedYet")
    assert not desired.release


def test_a_finished_job_is_deleted_when_its_time_to_live_is_over() -> None:
    status = {"conditions": [condition("Complete")], "completionTime": at(ago(seconds=60))}
    assert evaluate(observe(make_job({"ttlSecondsAfterFinished": 60}, status))).delete_job
    assert not evaluate(observe(make_job({"ttlSecondsAfterFinished": 61}, status))).delete_job
    assert not evaluate(observe(make_job({}, status))).delete_job


def test_a_completing_job_is_not_requeued_for_a_pause_that_is_over() -> None:
    """It was: a past time made the queue run it again and again without a pause."""
    failure = {"podName": "p", "podUID": "u", "failureTime": at(ago(hours=1)), "exitCode": 1}
    job = make_job(WITH_CLAIM, has_run(restarts=1, failures=[failure]))
    desired = evaluate(observe(job, coordinator(), worker(0, **ending(Result.COMPLETE))))
    assert desired.requeue_at is None


def test_a_pod_whose_sidecar_goes_on_is_ended_once_the_status_has_the_end_of_the_job() -> None:
    """It would hold its GPU for ever; before, its termination message is not safe yet."""
    lingering = {**ending(Result.COMPLETE), "phase": "Running", "outcome": "Succeeded"}
    last = coordinator(**lingering, lingers=True)
    observed = observe(make_job(WITH_CLAIM, has_run()), last)
    desired = evaluate(observed)
    assert (desired.phase, desired.pods.ends_lingering) == (Phase.COMPLETE, False)
    assert desired.requeue_at == NOW + timedelta(seconds=1)
    after = evaluate(observe(written(observed, desired), last))
    assert (after.phase, after.pods.ends_lingering) == (Phase.COMPLETE, True)


@pytest.mark.parametrize(
    ("scenario", "releases"),
    [
        ("a job whose workers all run is running", False),
        ("a suspended job first saves its state", False),
        ("a saved job with a claim is suspended without pods", True),
        ("a start that takes too long is given up", True),
        ("a task that cannot be loaded fails the job", True),
        ("a job that ran too long fails", True),
        ("a complete job then keeps its coordinator as the only copy", True),
    ],
)
def test_gpus_are_released_when(scenario: str, releases: bool) -> None:
    assert bool(evaluated(SCENARIOS[scenario]).release) is releases


def test_only_a_start_that_timed_out_makes_a_job_back_off() -> None:
    backing_off = {name for name, s in SCENARIOS.items() if evaluated(s).refuse_start}
    assert backing_off == {
        "a start that takes too long is given up",
        "a start that waiting does not help is given up soon",
        "a job that stays without workers releases its GPUs and keeps its coordinator",
        "a resumed job that cannot start keeps the only copy of its state",
    }


def test_a_refusal_by_the_api_server_is_quoted_in_the_condition() -> None:
    desired = evaluated(SCENARIOS["a job whose workers all run is running"])
    refused = with_refusal(desired, "exceeded quota: pods=3")
    assert conditions_of(refused)["Degraded"] == ("True", "ChildRefused")
    assert "exceeded quota: pods=3" in condition_of(refused, "Degraded").message
    assert len(refused.conditions) == len(desired.conditions)


def test_a_restarted_coordinators_old_report_does_not_complete_a_durable_job() -> None:
    job = make_job(WITH_CLAIM, has_run())
    report = reported(1, outcome="Complete")
    assert evaluate(observe(job, coordinator(), worker(), report=report)).phase is Phase.RUNNING


IRREVERSIBLE: dict[str, Scenario] = {
    "a job past its deadline": Scenario(
        pods=(coordinator(), worker(0)),
        spec={"activeDeadlineSeconds": 3600},
        status=has_run(),
        phase=Phase.RUNNING,
    ),
    "a finished job past its time to live": Scenario(
        spec={"ttlSecondsAfterFinished": 60},
        status={"conditions": [condition("Failed")], "completionTime": at(ago(days=1))},
        phase=Phase.FAILED,
    ),
    "a job that saves its state for longer than it may": Scenario(
        pods=(coordinator(), worker(0)),
        spec={"suspend": True, **WITH_CLAIM},
        status=has_run(
            conditions=[
                condition("Running"),
                condition("Suspended", "Unknown", since=ago(days=1)),
            ]
        ),
        phase=Phase.SUSPENDING,
    ),
}


@pytest.mark.parametrize("scenario", IRREVERSIBLE.values(), ids=IRREVERSIBLE.keys())
def test_nothing_irreversible_happens_by_a_clock_that_cannot_be_trusted(scenario: Scenario) -> None:
    job = make_job(scenario.spec, scenario.status)
    kept = evaluate(observe(job, *scenario.pods, is_clock_trusted=False))
    assert (kept.phase, kept.delete_job, kept.completed) == (scenario.phase, False, False)
    done = evaluate(observe(job, *scenario.pods))
    assert done.delete_job or done.phase in (Phase.FAILED, Phase.SUSPENDED)
