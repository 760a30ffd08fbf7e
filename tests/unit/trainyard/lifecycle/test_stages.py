"""Where a job stands: situations in, phase, claims, wish and sentences out."""

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
    claim,
    claimed,
    condition,
    coordinator,
    ending,
    has_run,
    look_at,
    make_job,
    worker,
)
from tests.support.situation import CLAIM, Situation, reported
from tests.support.situations import SITUATIONS
from trainyard.api.jobs import DistributedJob
from trainyard.api.status import DistributedJobStatus
from trainyard.lifecycle.conditions import with_refusal
from trainyard.lifecycle.desired import DesiredPods, DesiredState, Phase
from trainyard.lifecycle.observation import Observation
from trainyard.lifecycle.stages import evaluate
from trainyard.lifecycle.status import StatusInputs, status_of
from trainyard.scheduling.assignment import release
from trainyard_trainer.contract.exits import Result


@pytest.mark.parametrize("situation", SITUATIONS.values(), ids=SITUATIONS.keys())
def test_where_a_job_stands(situation: Situation) -> None:
    verdict = judge_of(situation)
    assert verdict.phase is situation.phase
    assert situation.claims.items() <= claimed(verdict).items()
    if situation.wish is not None:
        assert verdict.pods == situation.wish
    if situation.says[0]:
        assert situation.says[1] in claim(verdict, situation.says[0]).message
    if verdict.requeue_at is not None or situation.requeue_at is not None:
        assert verdict.requeue_at == situation.requeue_at
        assert verdict.requeue_at is not None
        assert verdict.requeue_at > situation.now, "a moment that is past spins"


def judge_of(situation: Situation) -> DesiredState:
    job = make_job(situation.spec, situation.status)
    return evaluate(
        look_at(
            job,
            *situation.pods,
            scaling=situation.scaling,
            report=situation.report,
            now=situation.now,
        )
    )


@pytest.mark.parametrize("situation", SITUATIONS.values(), ids=SITUATIONS.keys())
def test_the_same_look_leads_to_the_same_verdict_once_it_is_written(situation: Situation) -> None:
    """Nothing that a verdict writes may change the next one, or the status would never settle."""
    job = make_job(situation.spec, situation.status)
    if judge_of(situation).release:
        return  # the scheduler's side of the status changes with it
    for _ in range(2):
        look = look_at(
            job, *situation.pods, scaling=situation.scaling, report=situation.report, now=NOW
        )
        first, job = job, written(look, evaluate(look))
    assert job.status == first.status


@pytest.mark.parametrize("situation", SITUATIONS.values(), ids=SITUATIONS.keys())
def test_a_verdict_knows_what_is_due_once_it_is_written(situation: Situation) -> None:
    """Our own status is no news to us: nothing else would have the job looked at in time."""
    job = make_job({**situation.spec, "ttlSecondsAfterFinished": 5}, situation.status)
    seen = partial(look_at, report=situation.report, now=situation.now)
    look = seen(job, *situation.pods, scaling=situation.scaling)
    verdict = evaluate(look)
    held = release(situation.scaling, verdict.phase, verdict.release)
    scaling = held if verdict.release else situation.scaling
    after = evaluate(seen(written(look, verdict), *situation.pods, scaling=scaling))
    if after.requeue_at is not None:
        assert verdict.requeue_at is not None
        assert verdict.requeue_at <= after.requeue_at + timedelta(seconds=1), (
            "stored in whole seconds"
        )
    assert after.pods == verdict.pods


def written(look: Observation, verdict: DesiredState) -> DistributedJob:
    """The job once its status tells the verdict."""
    assert isinstance(look.job, DistributedJob)
    found = StatusInputs(
        desired=verdict,
        pods=look.pods,
        scaling=look.scaling,
        report=look.report,
        term=look.pods.term,
        plan_generation=0,
        now=look.now,
    )
    status = status_of(look.job, found)
    assert isinstance(status, DistributedJobStatus)
    return replace(look.job, status=status)


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
def test_a_field_without_an_engine_is_refused_by_name(spec: dict[str, Any], field: str) -> None:
    verdict = evaluate(look_at(make_job(spec)))
    assert (verdict.phase, verdict.pods) == (Phase.PENDING, DesiredPods())
    assert claimed(verdict) == {"Accepted": ("False", "NotSupportedYet")}
    assert field in claim(verdict, "Accepted").message


def test_a_job_that_trains_is_told_of_such_a_field_and_not_stopped() -> None:
    job = make_job({"failure": {"replaceStragglers": True}}, has_run())
    verdict = evaluate(look_at(job, coordinator(), worker()))
    assert verdict.phase is Phase.RUNNING
    assert verdict.pods == DesiredPods(coordinator=True, workers=1)
    assert claimed(verdict)["Accepted"] == ("False", "NotSupportedYet")
    assert not verdict.release


def test_a_finished_job_is_deleted_when_its_time_is_over() -> None:
    status = {"conditions": [condition("Complete")], "completionTime": at(ago(seconds=60))}
    assert evaluate(look_at(make_job({"ttlSecondsAfterFinished": 60}, status))).delete_job
    assert not evaluate(look_at(make_job({"ttlSecondsAfterFinished": 61}, status))).delete_job
    assert not evaluate(look_at(make_job({}, status))).delete_job


def test_a_completing_job_does_not_look_again_at_a_pause_that_is_over() -> None:
    """It did: a past moment made the queue run it again and again without a pause."""
    failure = {"pod": "p", "uid": "u", "at": at(ago(hours=1)), "exitCode": 1}
    job = make_job(CLAIM, has_run(restarts=1, failures=[failure]))
    verdict = evaluate(look_at(job, coordinator(), worker(0, **ending(Result.COMPLETE))))
    assert verdict.requeue_at is None


@pytest.mark.parametrize(
    ("situation", "releases"),
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
def test_gpus_are_given_back_when(situation: str, releases: bool) -> None:
    assert bool(judge_of(SITUATIONS[situation]).release) is releases


def test_only_a_start_that_took_too_long_makes_a_job_stand_back() -> None:
    standing = {name for name, s in SITUATIONS.items() if judge_of(s).refuse_start}
    assert standing == {
        "a start that takes too long is given up",
        "a job that stays without workers gives its GPUs back and keeps its coordinator",
        "a resumed job that cannot start keeps the only copy of its state",
    }


def test_a_refusal_by_the_api_server_is_told_in_its_words() -> None:
    verdict = judge_of(SITUATIONS["a job whose workers all run is running"])
    told = with_refusal(verdict, "exceeded quota: pods=3")
    assert claimed(told)["Degraded"] == ("True", "ChildRefused")
    assert "exceeded quota: pods=3" in claim(told, "Degraded").message
    assert len(told.conditions) == len(verdict.conditions)


def test_a_restarted_coordinators_old_report_does_not_complete_a_durable_job() -> None:
    job = make_job(CLAIM, has_run())
    report = reported(1, outcome="Complete")
    assert evaluate(look_at(job, coordinator(), worker(), report=report)).phase is Phase.RUNNING
