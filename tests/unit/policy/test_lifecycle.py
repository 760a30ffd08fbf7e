"""Where a job stands: situations in, phase, claims, wish and sentences out."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.support.jobs import (
    LIMITS,
    NOW,
    admitted,
    ago,
    at,
    claim,
    claimed,
    condition,
    coordinator,
    ending,
    failing,
    has_run,
    look_at,
    make_job,
    worker,
    workers,
)
from trainyard.api.conditions import merge_conditions
from trainyard.api.pods import Pod
from trainyard.api.report import Report
from trainyard.api.status import ScalingStatus
from trainyard.policy.claims import with_refusal
from trainyard.policy.lifecycle import judge
from trainyard.policy.verdict import Phase, Verdict, Wish
from trainyard_trainer.contract import LastWords, Result

CLAIM = {"state": {"claim": "digits-state"}}
MANY = {"workers": {"min": 1, "max": 8}}
WAITING = ScalingStatus(reason="WaitingForGPUs", message="needs 4 × 1 GPU; 1 free.")
PULL: dict[str, Any] = {
    "phase": "Pending",
    "trouble": "ImagePullBackOff",
    "trouble_message": 'Back-off pulling image "trainer:1"',
}
FAILED_WORDS = LastWords(result=Result.FAILED, error="no such dataset").encode()


@dataclass(frozen=True, kw_only=True)
class Situation:
    """What is seen of a job, and what must follow."""

    pods: tuple[Pod, ...] = ()
    spec: dict[str, Any] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)
    scaling: ScalingStatus = field(default_factory=admitted)
    report: Report | None = None
    now: datetime = NOW

    phase: Phase
    claims: dict[str, tuple[str, str]] = field(default_factory=dict)
    wish: Wish | None = None
    says: tuple[str, str] = ("", "")
    """A claim and words that its message holds."""
    again_at: datetime | None = None


def reported(active: int, **fields: Any) -> Report:
    return Report(at=NOW, wire=1, term=1, members={"active": active}, **fields)


SITUATIONS = {
    "a new job waits for the scheduler": Situation(
        scaling=ScalingStatus(),
        phase=Phase.WAITING,
        claims={"Accepted": ("True", "Valid"), "Admitted": ("False", "Pending")},
        wish=Wish(),
    ),
    "a job without room waits and says for what": Situation(
        scaling=WAITING,
        phase=Phase.WAITING,
        claims={"Admitted": ("False", "WaitingForGPUs"), "Running": ("False", "NotAdmitted")},
        wish=Wish(),
        says=("Admitted", "needs 4 × 1 GPU; 1 free."),
    ),
    "an admitted job starts its pods": Situation(
        scaling=admitted(3),
        phase=Phase.STARTING,
        claims={"Admitted": ("True", "Admitted"), "Running": ("False", "Starting")},
        wish=Wish(coordinator=True, workers=3),
        says=("Running", "0 of 3 workers run."),
        again_at=NOW + LIMITS.start_timeout,
    ),
    "a job whose workers are not all there yet is starting": Situation(
        pods=(coordinator(), worker(0), worker(1, phase="Pending")),
        scaling=admitted(2),
        phase=Phase.STARTING,
        says=("Running", "1 of 2 workers run."),
        wish=Wish(coordinator=True, workers=2),
        again_at=NOW + LIMITS.start_timeout,
    ),
    "a job whose workers all run is running": Situation(
        pods=(coordinator(), *workers(2)),
        scaling=admitted(2),
        report=reported(2),
        phase=Phase.RUNNING,
        claims={
            "Accepted": ("True", "Valid"),
            "Admitted": ("True", "Admitted"),
            "Running": ("True", "WorkersRunning"),
            "Rescaling": ("False", "Steady"),
            "Suspended": ("False", "NotRequested"),
            "StateDurable": ("False", "NoClaim"),
            "Degraded": ("False", "Healthy"),
        },
        says=("StateDurable", "Without spec.state.claim the state lives in the pods"),
        wish=Wish(coordinator=True, workers=2),
    ),
    "a job with a claim keeps its state": Situation(
        pods=(coordinator(), worker()),
        spec=CLAIM,
        phase=Phase.RUNNING,
        claims={"StateDurable": ("True", "Claim")},
        says=("StateDurable", "digits-state"),
    ),
    "a running job that gets a worker is rescaling": Situation(
        pods=(coordinator(), *workers(2)),
        status=has_run(),
        scaling=admitted(3),
        phase=Phase.RESCALING,
        claims={"Running": ("True", "WorkersRunning"), "Rescaling": ("True", "PodsChanging")},
        says=("Rescaling", "On the way to 3 workers."),
        wish=Wish(coordinator=True, workers=3),
    ),
    "a worker that runs and has not joined is on its way": Situation(
        pods=(coordinator(), *workers(3)),
        status=has_run(),
        scaling=admitted(3),
        report=Report(at=NOW, term=1, members={"active": 2, "warming": 1}),
        phase=Phase.RUNNING,
        claims={"Rescaling": ("True", "WorkersJoining")},
        says=("Rescaling", "On the way to 3 workers: 2 active, 1 warming."),
    ),
    "a lost coordinator is replaced while the workers go on": Situation(
        pods=workers(2),
        status=has_run(),
        scaling=admitted(2),
        phase=Phase.RESCALING,
        claims={"Running": ("True", "WorkersRunning")},
        wish=Wish(coordinator=True, workers=2),
    ),
    "a failed worker is replaced after a pause": Situation(
        pods=(coordinator(), worker(0), worker(1, **failing(words=FAILED_WORDS))),
        status=has_run(),
        scaling=admitted(2),
        phase=Phase.RESCALING,
        wish=Wish(coordinator=True, workers=2, replace_at=NOW + timedelta(seconds=1)),
        again_at=NOW + timedelta(seconds=1),
    ),
    "a counted failure is told until its worker is replaced": Situation(
        pods=(coordinator(), worker(0)),
        status=has_run(
            restarts=1,
            failures=[
                {
                    "pod": "digits-worker-1-1",
                    "uid": "gone",
                    "at": at(),
                    "message": "worker 1 (pod digits-worker-1-1) was killed (OOMKilled)",
                }
            ],
        ),
        scaling=admitted(2),
        phase=Phase.RESCALING,
        claims={"Degraded": ("True", "Replacing")},
        says=("Degraded", "OOMKilled"),
        again_at=NOW + timedelta(seconds=1),
    ),
    "a disrupted worker is replaced at once": Situation(
        pods=(coordinator(), worker(0), worker(1, **failing(137, is_disrupted=True))),
        status=has_run(),
        scaling=admitted(2),
        phase=Phase.RESCALING,
        wish=Wish(coordinator=True, workers=2),
    ),
    "a job that has lost all its workers starts again": Situation(
        pods=(coordinator(),),
        status=has_run(since=ago(hours=1)),
        scaling=admitted(2, ago(hours=1)),
        phase=Phase.STARTING,
        claims={"Running": ("False", "Starting")},
        wish=Wish(coordinator=True, workers=2),
        again_at=NOW + LIMITS.start_timeout,
    ),
    "a job that stays without workers gives its GPUs back and keeps its coordinator": Situation(
        pods=(coordinator(), worker(0, **PULL)),
        status={
            **has_run(training={"step": 7}),
            "conditions": [condition("Running", "False", since=ago(minutes=10))],
        },
        scaling=admitted(1, ago(hours=1)),
        phase=Phase.WAITING,
        claims={"Admitted": ("False", "StartTimedOut"), "Running": ("False", "NotAdmitted")},
        wish=Wish(coordinator=True),
        says=("Degraded", "spec.image 'trainer:1' cannot be pulled"),
    ),
    "a task that cannot be loaded fails the job": Situation(
        pods=(coordinator(), worker(0, **failing(64, words=FAILED_WORDS))),
        phase=Phase.FAILED,
        claims={
            "Failed": ("True", "TaskInvalid"),
            "Running": ("False", "TaskInvalid"),
            "Rescaling": ("False", "TaskInvalid"),
            "Degraded": ("False", "TaskInvalid"),
        },
        wish=Wish(keeps_finished=True),
        says=("Failed", "no such dataset"),
    ),
    "images that disagree fail the job": Situation(
        pods=(coordinator(**failing(76)),),
        phase=Phase.FAILED,
        claims={"Failed": ("True", "WireMismatch")},
    ),
    "too many restarts fail the job": Situation(
        pods=(coordinator(), worker(0, **failing(words=FAILED_WORDS))),
        spec={"failure": {"maxRestarts": 3}},
        status=has_run(restarts=3),
        phase=Phase.FAILED,
        claims={"Failed": ("True", "TooManyRestarts")},
        wish=Wish(keeps_finished=True),
        says=("Failed", "spec.failure.maxRestarts=3"),
    ),
    "a suspended job first saves its state": Situation(
        pods=(coordinator(), *workers(2)),
        spec={"suspend": True, **CLAIM},
        status=has_run(),
        phase=Phase.SUSPENDING,
        claims={"Suspended": ("Unknown", "Checkpointing")},
        wish=Wish(coordinator=True, keeps_live=True, keeps_finished=True),
        again_at=NOW + LIMITS.suspend_timeout,
    ),
    "a coordinator that breaks while the state is saved is replaced, not given up": Situation(
        pods=workers(2),
        spec={"suspend": True},
        status=has_run(),
        phase=Phase.SUSPENDING,
        wish=Wish(coordinator=True, keeps_live=True, keeps_finished=True),
        again_at=NOW + LIMITS.suspend_timeout,
    ),
    "workers that do not save in time are stopped": Situation(
        pods=(coordinator(), *workers(2)),
        spec={"suspend": True, **CLAIM},
        status=has_run(
            conditions=[
                condition("Running"),
                condition("Suspended", "Unknown", since=NOW - LIMITS.suspend_timeout),
            ]
        ),
        phase=Phase.SUSPENDED,
        wish=Wish(),
    ),
    "a saved job with a claim is suspended without pods": Situation(
        pods=(coordinator(), worker(0, **ending(Result.SUSPENDED))),
        spec={"suspend": True, **CLAIM},
        status=has_run(),
        phase=Phase.SUSPENDED,
        claims={
            "Suspended": ("True", "Requested"),
            "Admitted": ("False", "Suspended"),
            "Running": ("False", "Suspended"),
        },
        wish=Wish(),
        says=("Suspended", "the GPUs are free."),
    ),
    "a saved job without a claim keeps its coordinator": Situation(
        pods=(coordinator(), worker(0, **ending(Result.SUSPENDED))),
        spec={"suspend": True},
        status=has_run(),
        phase=Phase.SUSPENDED,
        wish=Wish(coordinator=True),
        says=("Suspended", "The coordinator stays"),
    ),
    "a job that is suspended before it ran gets nothing": Situation(
        pods=(coordinator(phase="Pending"), worker(0, phase="Pending")),
        spec={"suspend": True},
        phase=Phase.SUSPENDED,
        wish=Wish(),
    ),
    "a resumed job waits with its coordinator": Situation(
        pods=(coordinator(),),
        status=has_run(training={"step": 7}),
        scaling=ScalingStatus(reason="Suspended"),
        phase=Phase.WAITING,
        claims={"Suspended": ("False", "NotRequested")},
        wish=Wish(coordinator=True),
    ),
    "a resumed job that cannot start keeps the only copy of its state": Situation(
        pods=(coordinator(), worker(0, **PULL)),
        status={
            **has_run(training={"step": 7}),
            "conditions": [condition("Running", "False", since=ago(hours=1))],
        },
        scaling=admitted(1, NOW - LIMITS.start_timeout),
        phase=Phase.WAITING,
        wish=Wish(coordinator=True),
    ),
    "a durable job whose workers are done waits for its coordinator": Situation(
        pods=(coordinator(), worker(0, **ending(Result.COMPLETE)), worker(1)),
        spec=CLAIM,
        status=has_run(),
        scaling=admitted(2),
        phase=Phase.RUNNING,
        wish=Wish(coordinator=True, keeps_live=True, keeps_finished=True),
    ),
    "a durable job is complete when its coordinator says so": Situation(
        pods=(coordinator(**ending(Result.COMPLETE, metrics={"eval/accuracy": 0.97512})),),
        spec=CLAIM,
        status=has_run(),
        phase=Phase.COMPLETE,
        claims={
            "Complete": ("True", "TrainingComplete"),
            "Running": ("False", "TrainingComplete"),
        },
        wish=Wish(keeps_live=True, keeps_finished=True),
        says=("Complete", "Training is complete: eval/accuracy 0.9751."),
        again_at=NOW + LIMITS.finish_grace,
    ),
    "a job without a claim is complete when a worker says so, and keeps its result": Situation(
        pods=(coordinator(), worker(0, **ending(Result.COMPLETE)), worker(1)),
        status=has_run(),
        scaling=admitted(2),
        phase=Phase.COMPLETE,
        wish=Wish(coordinator=True, keeps_live=True, keeps_finished=True),
        says=("Complete", "Training is complete."),
        again_at=NOW + LIMITS.finish_grace,
    ),
    "a job without a claim is complete when its coordinator reports so": Situation(
        pods=(coordinator(), worker(0)),
        status=has_run(),
        report=reported(1, outcome="Complete", evaluation={"eval/loss": 0.5}),
        phase=Phase.COMPLETE,
        says=("Complete", "eval/loss 0.5"),
        again_at=NOW + LIMITS.finish_grace,
    ),
    "a complete job gives its workers a moment to end": Situation(
        pods=(coordinator(), worker(0)),
        status=has_run(conditions=[condition("Complete")], completionTime=at(ago(seconds=5))),
        phase=Phase.COMPLETE,
        wish=Wish(coordinator=True, keeps_live=True, keeps_finished=True),
        again_at=NOW + LIMITS.finish_grace - timedelta(seconds=5),
    ),
    "a complete job then keeps its coordinator as the only copy": Situation(
        pods=(coordinator(), worker(0)),
        status=has_run(conditions=[condition("Complete")], completionTime=at(ago(hours=1))),
        phase=Phase.COMPLETE,
        wish=Wish(coordinator=True, keeps_finished=True),
    ),
    "a complete job with a claim keeps nothing alive": Situation(
        pods=(coordinator(), worker(0)),
        spec=CLAIM,
        status=has_run(conditions=[condition("Complete")], completionTime=at(ago(hours=1))),
        phase=Phase.COMPLETE,
        wish=Wish(keeps_finished=True),
    ),
    "a finished job lives as long as it was told to": Situation(
        spec={"ttlSecondsAfterFinished": 60},
        status={"conditions": [condition("Failed")], "completionTime": at(ago(seconds=59))},
        phase=Phase.FAILED,
        again_at=NOW + timedelta(seconds=1),
    ),
    "a job that ran too long fails": Situation(
        pods=(coordinator(), worker(0)),
        spec={"activeDeadlineSeconds": 3600},
        status=has_run(),
        phase=Phase.FAILED,
        claims={"Failed": ("True", "DeadlineExceeded")},
        says=("Failed", "spec.activeDeadlineSeconds=3600"),
    ),
    "a running job is looked at again at its deadline": Situation(
        pods=(coordinator(), worker(0)),
        spec={"activeDeadlineSeconds": 3700},
        status=has_run(),
        phase=Phase.RUNNING,
        again_at=NOW + timedelta(seconds=100),
    ),
    "a suspended job is looked at again at its deadline": Situation(
        spec={"activeDeadlineSeconds": 3700, "suspend": True},
        status={"startTime": at(ago(hours=1))},
        phase=Phase.SUSPENDED,
        again_at=NOW + timedelta(seconds=100),
    ),
    "an image that cannot be pulled is named": Situation(
        pods=(coordinator(), worker(0, **PULL)),
        phase=Phase.STARTING,
        claims={"Degraded": ("True", "PodTrouble")},
        says=(
            "Running",
            "Pod digits-worker-0-1: spec.image 'trainer:1' cannot be pulled (ImagePullBackOff: "
            'Back-off pulling image "trainer:1").',
        ),
        again_at=NOW + LIMITS.start_timeout,
    ),
    "a start that takes too long is given up": Situation(
        pods=(coordinator(), worker(0), worker(1, phase="Pending", trouble="Unschedulable")),
        spec={"workers": {"min": 2, "max": 2}},
        scaling=admitted(2, NOW - LIMITS.start_timeout),
        phase=Phase.WAITING,
        claims={
            "Admitted": ("False", "StartTimedOut"),
            "Degraded": ("True", "StartTimedOut"),
        },
        wish=Wish(),
        says=("Admitted", "Not running 10 min after it got its GPUs: Pod digits-worker-1-1: no"),
    ),
    "a job that trains with its minimum is not stopped for a worker that cannot start": Situation(
        pods=(coordinator(), worker(0), worker(1, **PULL)),
        spec=MANY,
        scaling=admitted(2, NOW - LIMITS.start_timeout),
        phase=Phase.STARTING,
        wish=Wish(coordinator=True, workers=2),
    ),
    "a trainer of another release is named": Situation(
        pods=(coordinator(), worker(0)),
        status=has_run(),
        report=Report(at=NOW, wire=7, term=1, members={"active": 1}),
        phase=Phase.RUNNING,
        claims={"Degraded": ("True", "WireMismatch")},
        says=("Degraded", "The trainer image speaks wire version 7, this operator 1"),
    ),
}


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
        verdict = judge(look)
        conditions = merge_conditions(job.status.conditions, verdict.claims, at(), job.generation)
        kept = job.status
        status = type(kept)(
            phase=verdict.phase,
            conditions=conditions,
            start_time=kept.start_time or (at() if verdict.started else ""),
            completion_time=kept.completion_time or (at() if verdict.completed else ""),
            restarts=verdict.restarts,
            failures=verdict.failures,
            training=kept.training,
        )
        first, job = job, replace(job, status=status)
    assert job.status == first.status


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
