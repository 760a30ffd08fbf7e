"""Scenarios of jobs that complete, finish or have a deadline."""

from __future__ import annotations

from datetime import timedelta

from tests.support.jobs import (
    NOW,
    TIMEOUTS,
    admitted,
    ago,
    at,
    condition,
    coordinator,
    ending,
    has_run,
    worker,
)
from tests.support.scenarios.scenario import (
    WITH_CLAIM,
    Scenario,
    reported,
)
from trainyard.lifecycle.desired import DesiredPods, Phase
from trainyard_trainer.contract.exits import Result

FINISHING = {
    "a durable job whose workers are done waits for its coordinator": Scenario(
        pods=(coordinator(), worker(0, **ending(Result.COMPLETE)), worker(1)),
        spec=WITH_CLAIM,
        status=has_run(),
        assignment=admitted(2),
        phase=Phase.RUNNING,
        desired_pods=DesiredPods(coordinator=True, keeps_live=True, keeps_finished=True),
    ),
    "a durable job is complete when its coordinator reports so": Scenario(
        pods=(coordinator(**ending(Result.COMPLETE, metrics={"eval/accuracy": 0.97512})),),
        spec=WITH_CLAIM,
        status=has_run(),
        phase=Phase.COMPLETE,
        conditions={
            "Complete": ("True", "TrainingComplete"),
            "Running": ("False", "TrainingComplete"),
        },
        desired_pods=DesiredPods(keeps_live=True, keeps_finished=True),
        message=("Complete", "Training is complete: eval/accuracy 0.9751."),
        requeue_at=NOW + TIMEOUTS.finish_grace,
    ),
    "a job without a claim is complete when a worker reports so, and keeps its result": Scenario(
        pods=(coordinator(), worker(0, **ending(Result.COMPLETE)), worker(1)),
        status=has_run(),
        assignment=admitted(2),
        phase=Phase.COMPLETE,
        desired_pods=DesiredPods(coordinator=True, keeps_live=True, keeps_finished=True),
        message=("Complete", "Training is complete."),
        requeue_at=NOW + TIMEOUTS.finish_grace,
    ),
    "a job without a claim is complete when its coordinator reports so": Scenario(
        pods=(coordinator(), worker(0)),
        status=has_run(),
        report=reported(1, outcome="Complete", evaluation={"eval/loss": 0.5}),
        phase=Phase.COMPLETE,
        message=("Complete", "eval/loss 0.5"),
        requeue_at=NOW + TIMEOUTS.finish_grace,
    ),
    "a complete job gives its workers a moment to end": Scenario(
        pods=(coordinator(), worker(0)),
        status=has_run(conditions=[condition("Complete")], completionTime=at(ago(seconds=5))),
        phase=Phase.COMPLETE,
        desired_pods=DesiredPods(coordinator=True, keeps_live=True, keeps_finished=True),
        requeue_at=NOW + TIMEOUTS.finish_grace - timedelta(seconds=5),
    ),
    "a complete job then keeps its coordinator as the only copy": Scenario(
        pods=(coordinator(), worker(0)),
        status=has_run(conditions=[condition("Complete")], completionTime=at(ago(hours=1))),
        phase=Phase.COMPLETE,
        desired_pods=DesiredPods(coordinator=True, keeps_finished=True),
    ),
    "a complete job with a claim keeps nothing alive": Scenario(
        pods=(coordinator(), worker(0)),
        spec=WITH_CLAIM,
        status=has_run(conditions=[condition("Complete")], completionTime=at(ago(hours=1))),
        phase=Phase.COMPLETE,
        desired_pods=DesiredPods(keeps_finished=True),
    ),
    "a finished job is requeued for the end of its time to live": Scenario(
        spec={"ttlSecondsAfterFinished": 60},
        status={"conditions": [condition("Failed")], "completionTime": at(ago(seconds=59))},
        phase=Phase.FAILED,
        requeue_at=NOW + timedelta(seconds=1),
    ),
    "a job that ran too long fails": Scenario(
        pods=(coordinator(), worker(0)),
        spec={"activeDeadlineSeconds": 3600},
        status=has_run(),
        phase=Phase.FAILED,
        conditions={"Failed": ("True", "DeadlineExceeded")},
        message=("Failed", "spec.activeDeadlineSeconds=3600"),
    ),
    "a running job is requeued for its deadline": Scenario(
        pods=(coordinator(), worker(0)),
        spec={"activeDeadlineSeconds": 3700},
        status=has_run(),
        phase=Phase.RUNNING,
        requeue_at=NOW + timedelta(seconds=100),
    ),
    "a suspended job is requeued for its deadline": Scenario(
        spec={"activeDeadlineSeconds": 3700, "suspend": True},
        status={"startTime": at(ago(hours=1))},
        phase=Phase.SUSPENDED,
        requeue_at=NOW + timedelta(seconds=100),
    ),
}
