"""Scenarios of jobs that are suspended or resumed."""

from __future__ import annotations

from tests.support.jobs import (
    NOW,
    TIMEOUTS,
    admitted,
    ago,
    condition,
    coordinator,
    ending,
    has_run,
    worker,
    workers,
)
from tests.support.scenarios.scenario import (
    IMAGE_PULL_BACKOFF,
    WITH_CLAIM,
    Scenario,
)
from trainyard.api.status import ScalingStatus
from trainyard.lifecycle.desired import DesiredPods, Phase
from trainyard_trainer.contract.exits import Result

SUSPENDING = {
    "a suspended job first saves its state": Scenario(
        pods=(coordinator(), *workers(2)),
        spec={"suspend": True, **WITH_CLAIM},
        status=has_run(),
        phase=Phase.SUSPENDING,
        conditions={"Suspended": ("Unknown", "Checkpointing")},
        desired_pods=DesiredPods(coordinator=True, keeps_live=True, keeps_finished=True),
        requeue_at=NOW + TIMEOUTS.suspend_timeout,
    ),
    "a coordinator that breaks while the state is saved is replaced, not given up": Scenario(
        pods=workers(2),
        spec={"suspend": True},
        status=has_run(),
        phase=Phase.SUSPENDING,
        desired_pods=DesiredPods(coordinator=True, keeps_live=True, keeps_finished=True),
        requeue_at=NOW + TIMEOUTS.suspend_timeout,
    ),
    "workers that do not save in time are stopped": Scenario(
        pods=(coordinator(), *workers(2)),
        spec={"suspend": True, **WITH_CLAIM},
        status=has_run(
            conditions=[
                condition("Running"),
                condition("Suspended", "Unknown", since=NOW - TIMEOUTS.suspend_timeout),
            ]
        ),
        phase=Phase.SUSPENDED,
        desired_pods=DesiredPods(),
    ),
    "a saved job with a claim is suspended without pods": Scenario(
        pods=(coordinator(), worker(0, **ending(Result.SUSPENDED))),
        spec={"suspend": True, **WITH_CLAIM},
        status=has_run(),
        phase=Phase.SUSPENDED,
        conditions={
            "Suspended": ("True", "Requested"),
            "Admitted": ("False", "Suspended"),
            "Running": ("False", "Suspended"),
        },
        desired_pods=DesiredPods(),
        message=("Suspended", "the GPUs are free."),
    ),
    "a saved job without a claim keeps its coordinator": Scenario(
        pods=(coordinator(), worker(0, **ending(Result.SUSPENDED))),
        spec={"suspend": True},
        status=has_run(training={"step": 7}),
        phase=Phase.SUSPENDED,
        desired_pods=DesiredPods(coordinator=True),
        message=("Suspended", "The coordinator stays"),
    ),
    "a job that is suspended before it ran gets nothing": Scenario(
        pods=(coordinator(phase="Pending"), worker(0, phase="Pending")),
        spec={"suspend": True},
        phase=Phase.SUSPENDED,
        desired_pods=DesiredPods(),
    ),
    "a resumed job waits with its coordinator": Scenario(
        pods=(coordinator(),),
        status=has_run(training={"step": 7}),
        assignment=ScalingStatus(reason="Suspended"),
        phase=Phase.WAITING,
        conditions={"Suspended": ("False", "NotRequested")},
        desired_pods=DesiredPods(coordinator=True),
    ),
    "a job that was suspended says since when it asks again": Scenario(
        status={"conditions": [condition("Suspended", "True", reason="Requested")]},
        assignment=ScalingStatus(reason="Pending"),
        phase=Phase.WAITING,
        conditions={"Suspended": ("False", "Resumed")},
    ),
    "a job that was once suspended goes on to say so": Scenario(
        pods=(coordinator(), worker()),
        status={"conditions": [condition("Suspended", "False", reason="Resumed")]},
        phase=Phase.RUNNING,
        conditions={"Suspended": ("False", "Resumed")},
    ),
    "a resumed job that cannot start keeps the only copy of its state": Scenario(
        pods=(coordinator(), worker(0, **IMAGE_PULL_BACKOFF)),
        status={
            **has_run(training={"step": 7}),
            "conditions": [condition("Running", "False", since=ago(hours=1))],
        },
        assignment=admitted(1, NOW - TIMEOUTS.start_timeout),
        phase=Phase.WAITING,
        desired_pods=DesiredPods(coordinator=True),
    ),
}
