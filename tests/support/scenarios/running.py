"""Scenarios of jobs that run or change their size."""

from __future__ import annotations

from tests.support.jobs import (
    NOW,
    admitted,
    coordinator,
    has_run,
    worker,
    workers,
)
from tests.support.scenarios.scenario import (
    WITH_CLAIM,
    Scenario,
    reported,
)
from trainyard.api.report import CoordinatorReport
from trainyard.lifecycle.desired import DesiredPods, Phase

RUNNING = {
    "a job whose workers all run is running": Scenario(
        pods=(coordinator(), *workers(2)),
        assignment=admitted(2),
        report=reported(2),
        phase=Phase.RUNNING,
        conditions={
            "Accepted": ("True", "Valid"),
            "Admitted": ("True", "Admitted"),
            "Running": ("True", "WorkersRunning"),
            "Rescaling": ("False", "Steady"),
            "Suspended": ("False", "NotRequested"),
            "StateDurable": ("False", "NoClaim"),
            "Degraded": ("False", "Healthy"),
        },
        message=("StateDurable", "Without spec.state.claimName the state lives in the pods"),
        desired_pods=DesiredPods(coordinator=True, members=range(2)),
    ),
    "a job with a claim keeps its state": Scenario(
        pods=(coordinator(), worker()),
        spec=WITH_CLAIM,
        phase=Phase.RUNNING,
        conditions={"StateDurable": ("True", "Claim")},
        message=("StateDurable", "digits-state"),
    ),
    "a running job that gets a worker is rescaling": Scenario(
        pods=(coordinator(), *workers(2)),
        status=has_run(),
        assignment=admitted(3),
        phase=Phase.RESCALING,
        conditions={"Running": ("True", "WorkersRunning"), "Rescaling": ("True", "PodsChanging")},
        message=("Rescaling", "On the way to 3 workers."),
        desired_pods=DesiredPods(coordinator=True, members=range(3)),
    ),
    "a worker that runs and has not joined is on its way": Scenario(
        pods=(coordinator(), *workers(3)),
        status=has_run(),
        assignment=admitted(3),
        report=CoordinatorReport(at=NOW, term=1, members={"active": 2, "warming": 1}),
        phase=Phase.RUNNING,
        conditions={"Rescaling": ("True", "WorkersJoining")},
        message=("Rescaling", "On the way to 3 workers: 2 active, 1 warming."),
    ),
    "a job that trains goes on under an operator of another release": Scenario(
        pods=(coordinator(), worker()),
        status=has_run(),
        report=CoordinatorReport(at=NOW, wire=99, term=1, members={"active": 1}),
        phase=Phase.RUNNING,
        conditions={"Degraded": ("True", "WireMismatch"), "Running": ("True", "WorkersRunning")},
        desired_pods=DesiredPods(coordinator=True, members=range(1)),
        message=("Degraded", "The job trains on as it is and gets no Plan"),
    ),
    "a trainer of another release is named": Scenario(
        pods=(coordinator(), worker(0)),
        status=has_run(),
        report=CoordinatorReport(at=NOW, wire=7, term=1, members={"active": 1}),
        phase=Phase.RUNNING,
        conditions={"Degraded": ("True", "WireMismatch")},
        message=("Degraded", "The trainer image speaks wire version 7, this operator 1"),
    ),
}
