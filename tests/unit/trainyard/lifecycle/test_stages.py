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
from trainyard.lifecycle.desired import Phase, Verdict, Wish
from trainyard.lifecycle.observation import Look
from trainyard.lifecycle.stages import judge
from trainyard.lifecycle.status import Findings, status_of
from trainyard.scheduling.assignment import release
from trainyard_trainer.contract import Result


@pytest.mark.parametrize("situation", SITUATIONS.values(), ids=SITUATIONS.keys())
def test_where_a_job_stands(situation: Situation) -> None:
    verdict = judge_of(situation)
    assert verdict.phase is situation.phase
    assert situation.claims.items() <= claimed(verdict).items()
    if situation.wish is not None:
        assert verdict.wish == situation.wish
    if situation.says[0]:
        assert situation.says[1] in claim(verdict, situation.says[0]).message
    if verdict.again_at is not None or situation.again_at is not None:
        assert verdict.again_at == situation.again_at
        assert verdict.again_at is not None
        assert verdict.again_at > situation.now, "a moment that is past spins"


def judge_of(situation: Situation) -> Verdict:
    job = make_job(situation.spec, situation.status)
    return judge(
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
        first, job = job, written(look, judge(look))
    assert job.status == first.status


@pytest.mark.parametrize("situation", SITUATIONS.values(), ids=SITUATIONS.keys())
def test_a_verdict_knows_what_is_due_once_it_is_written(situation: Situation) -> None:
    """Our own status is no news to us: nothing else would have the job looked at in time."""
    job = make_job({**situation.spec, "ttlSecondsAfterFinished": 5}, situation.status)
    seen = partial(look_at, report=situation.report, now=situation.now)
    look = seen(job, *situation.pods, scaling=situation.scaling)
    verdict = judge(look)
    held = release(situation.scaling, verdict.phase, verdict.release)
    scaling = held if verdict.release else situation.scaling
    after = judge(seen(written(look, verdict), *situation.pods, scaling=scaling))
    if after.again_at is not None:
        assert verdict.again_at is not None
        assert verdict.again_at <= after.again_at + timedelta(seconds=1), "stored in whole seconds"
    assert after.wish == verdict.wish


def written(look: Look, verdict: Verdict) -> DistributedJob:
    """The job once its status tells the verdict."""
    assert isinstance(look.job, DistributedJob)
    found = Findings(
        verdict=verdict,
        roster=look.roster,
        scaling=look.scaling,
        report=look.report,
        term=look.roster.term,
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
    verdict = judge(look_at(make_job(spec)))
    assert (verdict.phase, verdict.wish) == (Phase.PENDING, Wish())
    assert claimed(verdict) == {"Accepted": ("False", "NotSupportedYet")}
    assert field in claim(verdict, "Accepted").message


def test_a_job_that_trains_is_told_of_such_a_field_and_not_stopped() -> None:
    job = make_job({"failure": {"replaceStragglers": True}}, has_run())
    verdict = judge(look_at(job, coordinator(), worker()))
    assert verdict.phase is Phase.RUNNING
    assert verdict.wish == Wish(coordinator=True, workers=1)
    assert claimed(verdict)["Accepted"] == ("False", "NotSupportedYet")
    assert not verdict.release


def test_a_finished_job_is_deleted_when_its_time_is_over() -> None:
    status = {"conditions": [condition("Complete")], "completionTime": at(ago(seconds=60))}
    assert judge(look_at(make_job({"ttlSecondsAfterFinished": 60}, status))).delete_job
    assert not judge(look_at(make_job({"ttlSecondsAfterFinished": 61}, status))).delete_job
    assert not judge(look_at(make_job({}, status))).delete_job


def test_a_completing_job_does_not_look_again_at_a_pause_that_is_over() -> None:
    """It did: a past moment made the queue run it again and again without a pause."""
    failure = {"pod": "p", "uid": "u", "at": at(ago(hours=1)), "exitCode": 1}
    job = make_job(CLAIM, has_run(restarts=1, failures=[failure]))
    verdict = judge(look_at(job, coordinator(), worker(0, **ending(Result.COMPLETE))))
    assert verdict.again_at is None


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
    assert len(told.claims) == len(verdict.claims)


def test_a_restarted_coordinators_old_report_does_not_complete_a_durable_job() -> None:
    job = make_job(CLAIM, has_run())
    report = reported(1, outcome="Complete")
    assert judge(look_at(job, coordinator(), worker(), report=report)).phase is Phase.RUNNING
