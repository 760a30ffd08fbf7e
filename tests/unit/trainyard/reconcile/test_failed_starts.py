"""Jobs that cannot start beside jobs that can: the queue in simulated time."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.jobs import NOW, ago, coordinator, job_pods, make_job, worker
from trainyard.api.cluster import Cluster, Node
from trainyard.api.jobs import DistributedJob
from trainyard.api.pods import Pod
from trainyard.api.status import ScalingStatus
from trainyard.lifecycle.observation import Observation
from trainyard.lifecycle.stages import evaluate
from trainyard.lifecycle.timeouts import Timeouts
from trainyard.reconcile.state import AssignmentState
from trainyard.scheduling.allocation import allocate
from trainyard.scheduling.conversion import request_of

GPUS = 8
STEP = timedelta(seconds=5)
UNSCHEDULABLE: dict[str, Any] = {"waiting_reason": "Unschedulable", "node": ""}
NO_IMAGE: dict[str, Any] = {"waiting_reason": "ErrImagePull", "waiting_message": "not found"}


@dataclass
class SimulatedJob:
    """A job of all GPUs, whose workers run at once or stay as `blocked` says."""

    job: DistributedJob
    blocked: dict[str, Any] = field(default_factory=dict)
    assignment: AssignmentState = field(default_factory=lambda: AssignmentState(ScalingStatus()))
    holds: list[tuple[datetime, datetime]] = field(default_factory=list)
    """When it had GPUs without running, from and to."""
    started_at: datetime | None = None

    @property
    def pods(self) -> list[Pod]:
        created = self.assignment.value.decision_time or NOW
        workers = [
            worker(n, phase="Pending", created_at=created, **self.blocked)
            if self.blocked
            else worker(n, created_at=created)
            for n in range(self.assignment.value.desired)
        ]
        return [coordinator(created_at=created), *workers] if workers else []

    def reconcile(self, timeouts: Timeouts, now: datetime) -> None:
        """As the reconcile of a job does."""
        if not self.assignment.value.desired:
            return
        observed = Observation.of(
            self.job, job_pods(*self.pods), self.assignment.value, None, timeouts, now
        )
        desired = evaluate(observed)
        if desired.refuse_start:
            since = self.assignment.value.decision_time
            assert since is not None
            self.holds.append((since, now))
            self.assignment.back_off(timeouts, desired.release, now)
        elif desired.trains:
            self.started_at = self.started_at or now
            self.assignment.forget_failed_starts()


def simulated(name: str, blocked: dict[str, Any] | None = None, *, age: int = 0) -> SimulatedJob:
    spec = {
        "workers": {"min": GPUS, "max": GPUS, "replicas": GPUS},
        "scaling": {"policy": "Manual"},
    }
    meta: dict[str, Any] = {"name": name, "creationTimestamp": ago(minutes=age).isoformat()}
    return SimulatedJob(job=make_job(spec, **meta), blocked=blocked or {})


ALLOCATABLE = {"nvidia.com/gpu": GPUS, "cpu": 64_000, "memory": 2**40, "pods": 110}


def run(jobs: list[SimulatedJob], timeouts: Timeouts, duration: timedelta) -> None:
    """Decide and reconcile once each step."""
    cluster = Cluster(nodes=(Node(name="n0", allocatable=ALLOCATABLE),), pods=())
    by_key = {simulated.job.key: simulated for simulated in jobs}
    now = NOW
    while now < NOW + duration:
        requests = [request_of(s.job, s.assignment.value, None, {}) for s in jobs]
        for key, decision in allocate(requests, cluster, now).items():
            by_key[key].assignment.decide(by_key[key].job, decision, now)
        for each in jobs:
            each.reconcile(timeouts, now)
        now += STEP


@pytest.mark.parametrize("is_hopeless", [True, False])
def test_an_honest_job_gets_in_after_one_start_of_each_squatter_and_these_come_behind_it(
    is_hopeless: bool,
) -> None:
    """The back-off of the first ends while the second tries; it does not get in again before."""
    timeouts = Timeouts()
    first = simulated("first", UNSCHEDULABLE, age=3)
    second = simulated("second", NO_IMAGE if is_hopeless else UNSCHEDULABLE, age=2)
    honest = simulated("honest", age=1)
    run([first, second, honest], timeouts, timedelta(hours=1))
    assert honest.started_at is not None
    last = timeouts.blocked_start_timeout if is_hopeless else timeouts.start_timeout
    most = timeouts.start_timeout + last + 2 * STEP
    assert honest.started_at <= NOW + most, "each squatter before it has one start"
    assert len(first.holds) == len(second.holds) == 1, "they wait for the GPUs of the honest job"


def test_squatters_do_not_take_turns_for_ever() -> None:
    squatters = [simulated(name, UNSCHEDULABLE, age=9) for name in ("first", "second")]
    run(squatters, Timeouts(), timedelta(hours=10))
    idle = timedelta(hours=10) - sum((b - a for s in squatters for a, b in s.holds), timedelta())
    assert idle > timedelta(hours=5)


def test_a_job_that_arrives_later_waits_for_at_most_one_start() -> None:
    """Jobs whose start failed before it came stand before it, and back off for ever longer."""
    squatter = simulated("squatter", UNSCHEDULABLE, age=9)
    late = simulated("late", age=-60)
    run([squatter], Timeouts(), timedelta(minutes=60))
    until = squatter.assignment.value.cooldown_end_time
    assert until is not None
    assert until - squatter.holds[-1][1] >= timedelta(minutes=16)
    run([squatter, late], Timeouts(), timedelta(minutes=20))
    assert late.started_at is not None


@settings(max_examples=40, deadline=None)
@given(
    start=st.integers(1, 120),
    blocked=st.integers(1, 60),
    first=st.integers(1, 60),
    longest=st.integers(60, 600),
    is_hopeless=st.booleans(),
)
def test_a_job_without_a_running_pod_holds_gpus_for_a_bounded_time_over_its_failed_starts(
    start: int, blocked: int, first: int, longest: int, is_hopeless: bool
) -> None:
    timeouts = Timeouts(
        start_timeout=timedelta(seconds=start),
        blocked_start_timeout=timedelta(seconds=blocked),
        start_backoff=timedelta(seconds=first),
        max_start_backoff=timedelta(seconds=longest),
    )
    squatter = simulated("squatter", NO_IMAGE if is_hopeless else UNSCHEDULABLE)
    run([squatter], timeouts, timedelta(minutes=30))
    bound = min(start, blocked) if is_hopeless else start
    assert squatter.holds
    held = sum((end - begin for begin, end in squatter.holds), timedelta())
    assert held <= len(squatter.holds) * (timedelta(seconds=bound) + STEP)
    pauses = [after[0] - before[1] for before, after in pairwise(squatter.holds)]
    for n, pause in enumerate(pauses):
        assert pause >= timedelta(seconds=min(first * 2**n, longest))
    assert squatter.assignment.value.failed_starts == len(squatter.holds)
