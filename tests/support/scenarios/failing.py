"""Scenarios of jobs with lost or failed pods."""

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
    failing,
    has_run,
    worker,
    workers,
)
from tests.support.scenarios.scenario import (
    FAILED_MESSAGE,
    IMAGE_PULL_BACKOFF,
    Scenario,
)
from trainyard.lifecycle.desired import DesiredPods, Phase

FAILING = {
    "a lost coordinator is replaced while the workers go on": Scenario(
        pods=workers(2),
        status=has_run(),
        assignment=admitted(2),
        phase=Phase.RESCALING,
        conditions={"Running": ("True", "WorkersRunning")},
        desired_pods=DesiredPods(coordinator=True, members=range(2)),
    ),
    "a failed worker is replaced after a pause": Scenario(
        pods=(coordinator(), worker(0), worker(1, **failing(termination_message=FAILED_MESSAGE))),
        status=has_run(),
        assignment=admitted(2),
        phase=Phase.RESCALING,
        desired_pods=DesiredPods(
            coordinator=True, members=range(2), replace_at=NOW + timedelta(seconds=1)
        ),
        requeue_at=NOW + timedelta(seconds=1),
    ),
    "a recorded failure is shown until its worker is replaced": Scenario(
        pods=(coordinator(), worker(0)),
        status=has_run(
            restarts=1,
            failures=[
                {
                    "podName": "digits-worker-1-1",
                    "podUID": "uid-of-deleted-pod",
                    "failureTime": at(),
                    "message": "worker 1 (pod digits-worker-1-1) was killed (OOMKilled)",
                }
            ],
        ),
        assignment=admitted(2),
        phase=Phase.RESCALING,
        conditions={"Degraded": ("True", "Replacing")},
        message=("Degraded", "OOMKilled"),
        requeue_at=NOW + timedelta(seconds=1),
    ),
    "a disrupted worker is replaced at once": Scenario(
        pods=(coordinator(), worker(0), worker(1, **failing(137, is_disrupted=True))),
        status=has_run(),
        assignment=admitted(2),
        phase=Phase.RESCALING,
        desired_pods=DesiredPods(coordinator=True, members=range(2)),
    ),
    "a job that has lost all its workers starts again": Scenario(
        pods=(coordinator(),),
        status=has_run(since=ago(hours=1)),
        assignment=admitted(2, ago(hours=1)),
        phase=Phase.STARTING,
        conditions={"Running": ("False", "Starting")},
        desired_pods=DesiredPods(coordinator=True, members=range(2)),
        requeue_at=NOW + TIMEOUTS.start_timeout,
    ),
    "a job that stays without workers releases its GPUs and keeps its coordinator": Scenario(
        pods=(coordinator(), worker(0, **IMAGE_PULL_BACKOFF)),
        status={
            **has_run(training={"step": 7}),
            "conditions": [condition("Running", "False", since=ago(minutes=10))],
        },
        assignment=admitted(1, ago(hours=1)),
        phase=Phase.WAITING,
        conditions={"Admitted": ("False", "StartTimedOut"), "Running": ("False", "NotAdmitted")},
        desired_pods=DesiredPods(coordinator=True),
        message=("Degraded", "spec.image 'trainer:1' cannot be pulled"),
    ),
    "a task that cannot be loaded fails the job": Scenario(
        pods=(coordinator(), worker(0, **failing(64, termination_message=FAILED_MESSAGE))),
        phase=Phase.FAILED,
        conditions={
            "Failed": ("True", "TaskInvalid"),
            "Running": ("False", "TaskInvalid"),
            "Rescaling": ("False", "TaskInvalid"),
            "Degraded": ("False", "TaskInvalid"),
        },
        desired_pods=DesiredPods(keeps_finished=True),
        message=("Failed", "no such dataset"),
    ),
    "images that disagree are named, and retried slowly": Scenario(
        pods=(
            coordinator(**failing(76, termination_message="the operator speaks wire version 1")),
        ),
        phase=Phase.STARTING,
        conditions={"Degraded": ("True", "WireMismatch"), "Running": ("False", "Starting")},
        desired_pods=DesiredPods(
            coordinator=True, members=range(1), replace_at=NOW + TIMEOUTS.retry_cap
        ),
        message=("Degraded", "tried again every 5 min. Recreate the job with an image of this"),
        requeue_at=NOW + TIMEOUTS.retry_cap,
    ),
    "too many restarts fail the job": Scenario(
        pods=(coordinator(), worker(0, **failing(termination_message=FAILED_MESSAGE))),
        spec={"failure": {"maxRestarts": 3}},
        status=has_run(restarts=3),
        phase=Phase.FAILED,
        conditions={"Failed": ("True", "TooManyRestarts")},
        desired_pods=DesiredPods(keeps_finished=True),
        message=("Failed", "spec.failure.maxRestarts=3"),
    ),
}
