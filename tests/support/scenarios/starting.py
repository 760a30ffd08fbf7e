"""Scenarios of jobs that wait for GPUs or start their pods."""

from __future__ import annotations

from tests.support.jobs import (
    NOW,
    TIMEOUTS,
    admitted,
    coordinator,
    worker,
)
from tests.support.scenarios.scenario import (
    IMAGE_PULL_BACKOFF,
    NO_SUCH_CONFIG_MAP,
    NO_SUCH_IMAGE,
    UP_TO_EIGHT_WORKERS,
    WAITING_FOR_GPUS,
    Scenario,
)
from trainyard.api.status import Provisioning, ScalingStatus
from trainyard.lifecycle.desired import DesiredPods, Phase

STARTING = {
    "a new job waits for the scheduler": Scenario(
        assignment=ScalingStatus(),
        phase=Phase.WAITING,
        conditions={"Accepted": ("True", "Valid"), "Admitted": ("False", "Pending")},
        desired_pods=DesiredPods(),
    ),
    "a job that does not fit waits and names what it needs": Scenario(
        assignment=WAITING_FOR_GPUS,
        phase=Phase.WAITING,
        conditions={"Admitted": ("False", "WaitingForGPUs"), "Running": ("False", "NotAdmitted")},
        desired_pods=DesiredPods(),
        message=("Admitted", "needs 4 × 1 GPU; 1 free."),
    ),
    "an admitted job starts its pods": Scenario(
        assignment=admitted(3),
        phase=Phase.STARTING,
        conditions={"Admitted": ("True", "Admitted"), "Running": ("False", "Starting")},
        desired_pods=DesiredPods(coordinator=True, members=range(3)),
        message=("Running", "0 of 3 workers run."),
        requeue_at=NOW + TIMEOUTS.start_timeout,
    ),
    "a job whose workers are not all there yet is starting": Scenario(
        pods=(coordinator(), worker(0), worker(1, phase="Pending")),
        assignment=admitted(2),
        phase=Phase.STARTING,
        message=("Running", "1 of 2 workers run."),
        desired_pods=DesiredPods(coordinator=True, members=range(2)),
    ),
    "an image that cannot be pulled is named": Scenario(
        pods=(coordinator(), worker(0, **IMAGE_PULL_BACKOFF)),
        phase=Phase.STARTING,
        conditions={"Degraded": ("True", "PodTrouble")},
        message=(
            "Running",
            "Pod digits-worker-0-1: spec.image 'trainer:1' cannot be pulled (ImagePullBackOff: "
            'Back-off pulling image "trainer:1").',
        ),
        requeue_at=NOW + TIMEOUTS.start_timeout,
    ),
    "a start that takes too long is given up": Scenario(
        pods=(coordinator(), worker(0), worker(1, phase="Pending", waiting_reason="Unschedulable")),
        spec={"workers": {"min": 2, "max": 2}},
        assignment=admitted(2, NOW - TIMEOUTS.start_timeout),
        phase=Phase.WAITING,
        conditions={
            "Admitted": ("False", "StartTimedOut"),
            "Degraded": ("True", "StartTimedOut"),
        },
        desired_pods=DesiredPods(),
        message=("Admitted", "Not running 10 min after it got its GPUs: Pod digits-worker-1-1: no"),
    ),
    "a start that waiting does not help is given up soon": Scenario(
        pods=(coordinator(), worker(0, **NO_SUCH_IMAGE)),
        assignment=admitted(1, NOW - TIMEOUTS.blocked_start_timeout),
        phase=Phase.WAITING,
        conditions={
            "Admitted": ("False", "StartTimedOut"),
            "Degraded": ("True", "StartTimedOut"),
        },
        desired_pods=DesiredPods(),
        message=(
            "Degraded",
            "It cannot start, and waiting does not help: Pod digits-worker-0-1: spec.image "
            "'trainer:1' cannot be pulled (ErrImagePull: docker.io/library/trainer:1: not found).",
        ),
    ),
    "what was applied together with the job has a while to arrive": Scenario(
        pods=(coordinator(phase="Pending", **NO_SUCH_CONFIG_MAP), worker(0)),
        phase=Phase.STARTING,
        conditions={"Degraded": ("True", "PodTrouble")},
        message=("Degraded", "a volume cannot be mounted (FailedMount: MountVolume.SetUp failed"),
        requeue_at=NOW + TIMEOUTS.blocked_start_timeout,
    ),
    "workers that say nothing wait for the same as one that does": Scenario(
        pods=(
            coordinator(),
            worker(0, phase="Pending", **NO_SUCH_CONFIG_MAP),
            worker(1, phase="Pending"),
        ),
        spec=UP_TO_EIGHT_WORKERS,
        assignment=admitted(2),
        phase=Phase.STARTING,
        requeue_at=NOW + TIMEOUTS.blocked_start_timeout,
    ),
    "workers that may still start get the whole start timeout": Scenario(
        pods=(
            coordinator(),
            worker(0, phase="Pending", waiting_reason="ErrImageNeverPull"),
            worker(1, phase="Pending"),
        ),
        spec=UP_TO_EIGHT_WORKERS,
        assignment=admitted(2),
        phase=Phase.STARTING,
        requeue_at=NOW + TIMEOUTS.start_timeout,
    ),
    "too few workers that may still start are given up with the others": Scenario(
        pods=(
            coordinator(),
            worker(0, phase="Pending", waiting_reason="ErrImageNeverPull"),
            worker(1, phase="Pending"),
        ),
        spec={"workers": {"min": 2, "max": 2}},
        assignment=admitted(2),
        phase=Phase.STARTING,
        requeue_at=NOW + TIMEOUTS.blocked_start_timeout,
    ),
    "a job that trains is not stopped for a worker that waiting does not help": Scenario(
        pods=(coordinator(), worker(0), worker(1, **NO_SUCH_IMAGE)),
        spec=UP_TO_EIGHT_WORKERS,
        assignment=admitted(2, NOW - TIMEOUTS.start_timeout),
        phase=Phase.RUNNING,
        conditions={"Degraded": ("True", "PodTrouble")},
        desired_pods=DesiredPods(coordinator=True, members=range(2)),
    ),
    "a job that trains with its minimum is not stopped for a worker that cannot start": Scenario(
        pods=(coordinator(), worker(0), worker(1, **IMAGE_PULL_BACKOFF)),
        spec=UP_TO_EIGHT_WORKERS,
        assignment=admitted(2, NOW - TIMEOUTS.start_timeout),
        phase=Phase.RUNNING,
        conditions={
            "Running": ("True", "WorkersRunning"),
            "Rescaling": ("False", "Steady"),
            "Degraded": ("True", "PodTrouble"),
        },
        desired_pods=DesiredPods(coordinator=True, members=range(2)),
    ),
    "a job that trains with its minimum is running once the others had their time": Scenario(
        pods=(coordinator(), worker(0), worker(1, phase="Pending")),
        assignment=admitted(2, NOW - TIMEOUTS.bind_timeout),
        phase=Phase.RUNNING,
        conditions={"Running": ("True", "WorkersRunning")},
        desired_pods=DesiredPods(coordinator=True, members=range(2)),
    ),
    "a job that waits for nodes of a pool is not in trouble": Scenario(
        pods=(coordinator(), worker(0, phase="Pending", waiting_reason="Unschedulable")),
        assignment=admitted(
            1,
            NOW - TIMEOUTS.start_timeout,
            reason="Provisioning",
            provisioning=Provisioning(pool="a100"),
        ),
        phase=Phase.STARTING,
        conditions={"Running": ("False", "Provisioning"), "Degraded": ("False", "Healthy")},
        message=("Running", "no node takes it (Unschedulable"),
        desired_pods=DesiredPods(coordinator=True, members=range(1)),
        requeue_at=NOW + TIMEOUTS.provision_timeout,
    ),
    "a pool that added its nodes leaves the time to start": Scenario(
        pods=(coordinator(), worker(0, phase="Pending")),
        assignment=admitted(
            1,
            NOW - TIMEOUTS.provision_timeout,
            provisioning=Provisioning(pool="a100"),
        ),
        phase=Phase.STARTING,
        conditions={"Running": ("False", "Starting")},
        desired_pods=DesiredPods(coordinator=True, members=range(1)),
        requeue_at=NOW + TIMEOUTS.start_timeout,
    ),
}
