"""Hours of the scheduler beside a kube-scheduler that refuses any of its workers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.requests import GPU, NOW, job, key, measurement
from trainyard.api.cluster import Cluster, Node, PodInfo
from trainyard.api.names import Key
from trainyard.api.status import Change
from trainyard.scheduling.allocation import allocate
from trainyard.scheduling.decision import Allocation, Decision
from trainyard.scheduling.proposal import SchedulerSettings
from trainyard.scheduling.request import JobRequest
from trainyard.scheduling.shapes import PodShape
from trainyard_trainer.contract.env import Role

INTERVAL = timedelta(seconds=10)
TERMINATION = timedelta(seconds=20)
SETTINGS = SchedulerSettings()
SLACK = TERMINATION + 3 * INTERVAL
DEADLINE = SETTINGS.bind_timeout + SLACK
"""After so long an idle GPU is reserved for nobody."""
NODE = "n0"
Refuses = Callable[[str, int, datetime], bool]


@dataclass
class WorkerPod:
    created_at: datetime
    node: str = ""
    gone_at: datetime | None = None


@dataclass
class SimulatedJob:
    request: JobRequest
    pods: dict[int, WorkerPod] = field(default_factory=dict)
    terminating: list[WorkerPod] = field(default_factory=list)
    changed_at: list[datetime] = field(default_factory=list)
    idle_since: datetime | None = None
    """Since when it has had pods without a node, or waited, beside GPUs that no pod holds."""

    @property
    def name(self) -> str:
        return self.request.key.name

    @property
    def bound(self) -> int:
        return sum(bool(pod.node) for pod in self.pods.values())

    def apply(self, decision: Decision, now: datetime) -> None:
        before = self.request
        self.request = replace(before, not_placed=decision.not_placed)
        if decision.workers == before.admitted_workers:
            return
        assert decision.workers >= before.min_workers, "no job is cut below its minimum"
        change = Change(
            from_=before.admitted_workers,
            to=decision.workers,
            reason=decision.reason,
            decision_time=now,
        )
        self.request = replace(
            self.request,
            admitted_workers=decision.workers,
            admitted_at=before.admitted_at or now,
            decision_time=now,
            history=(*before.history, change)[-20:],
        )
        self.changed_at.append(now)

    def reconcile(self, now: datetime) -> None:
        for index in [i for i in self.pods if i >= self.request.admitted_workers]:
            pod = self.pods.pop(index)
            if pod.node:
                self.terminating.append(replace(pod, gone_at=now + TERMINATION))
        for index in range(self.request.admitted_workers):
            self.pods.setdefault(index, WorkerPod(created_at=now))
        self.terminating = [p for p in self.terminating if p.gone_at and p.gone_at > now]

    def measure(self, now: datetime) -> None:
        """More workers are always faster, so that the policy asks for all that it may have."""
        current = self.request.admitted_workers
        is_running = 0 < current == self.bound
        profile = {entry.workers: entry for entry in self.request.profile}
        if is_running:
            profile[current] = measurement(current, 100.0 * current)
        found = tuple(profile[size] for size in sorted(profile))
        self.request = replace(self.request, is_running=is_running, measured_at=now, profile=found)

    def infos(self) -> list[PodInfo]:
        pods = [(f"{i}", pod) for i, pod in sorted(self.pods.items())]
        pods += [(f"gone-{i}", pod) for i, pod in enumerate(self.terminating)]
        return [
            PodInfo(
                namespace="team",
                name=f"{self.name}-{suffix}",
                requests={GPU: 1},
                node=pod.node,
                job=self.request.key,
                role=Role.WORKER,
                created_at=pod.created_at,
                scheduling_message="" if pod.node else "refused",
                is_deleting=pod.gone_at is not None,
            )
            for suffix, pod in pods
        ]


class Simulation:
    """One node; operator, kube-scheduler and workers take turns."""

    def __init__(self, gpus: int, jobs: list[JobRequest], refuses: Refuses) -> None:
        self.gpus, self.refuses, self.now = gpus, refuses, NOW
        self.jobs = [SimulatedJob(request) for request in jobs]
        self.room_since: dict[Key, Mapping[PodShape, datetime]] = {}

    @property
    def free(self) -> int:
        held = sum(job.bound + len(job.terminating) for job in self.jobs)
        return self.gpus - held

    def run(self, time: timedelta) -> None:
        until = self.now + time
        while self.now < until:
            self.step()
            self.now += INTERVAL

    def step(self) -> None:
        allocation = self._allocate()
        for each in self.jobs:
            each.apply(allocation[each.request.key], self.now)
            each.reconcile(self.now)
        self._bind()
        for each in self.jobs:
            each.measure(self.now)
            self._check_idle(each)

    def _allocate(self) -> Allocation:
        pods = [info for each in self.jobs for info in each.infos()]
        snapshot = Cluster(nodes=(Node(name=NODE, allocatable={GPU: self.gpus}),), pods=tuple(pods))
        requests = [each.request for each in self.jobs]
        known = self.room_since
        allocation = allocate(requests, snapshot, self.now, settings=SETTINGS, room_since=known)
        self.room_since = {k: d.room_since for k, d in allocation.items()}
        return allocation

    def _bind(self) -> None:
        for each in self.jobs:
            for index, pod in each.pods.items():
                if not pod.node and self.free and not self.refuses(each.name, index, self.now):
                    pod.node = NODE

    def _check_idle(self, each: SimulatedJob) -> None:
        """Idle GPUs are neither reserved for pods without a node nor kept from a waiting job."""
        request = each.request
        is_reserved = each.bound < request.admitted_workers > request.min_workers
        first = next((job for job in self.jobs if not job.request.admitted_workers), None)
        is_waiting = each is first and self.free >= request.min_workers
        has_changed = self.now in each.changed_at[-1:]
        if has_changed or not self.free or not (is_reserved or is_waiting):
            each.idle_since = None
            return
        each.idle_since = each.idle_since or self.now
        assert self.now - each.idle_since <= DEADLINE, f"{each.name} at {self.now}"


def changes_per_hour(changed_at: list[datetime]) -> int:
    hours = (
        sum(start <= moment < start + timedelta(hours=1) for moment in changed_at)
        for start in changed_at
    )
    return max(hours, default=0)


@st.composite
def simulations(draw: st.DrawFn) -> Simulation:
    """Jobs, and who is refused in which quarter of an hour."""
    jobs = []
    for name in "abc"[: draw(st.integers(1, 3))]:
        low = draw(st.integers(1, 2))
        jobs.append(
            job(
                name,
                min_workers=low,
                max_workers=draw(st.integers(low, 6)),
                start_workers=draw(st.integers(1, 6)),
                policy=draw(st.sampled_from(["Manual", "Throughput"])),
                created_at=NOW,
            )
        )
    refused = draw(st.sets(st.tuples(st.sampled_from("abc"), st.integers(0, 5), st.integers(0, 7))))

    def refuses(name: str, index: int, now: datetime) -> bool:
        return (name, index, (now - NOW) // timedelta(minutes=15)) in refused

    jobs.append(job("probe", max_workers=1, created_at=NOW + timedelta(seconds=1)))
    return Simulation(draw(st.integers(2, 8)), jobs, refuses)


@settings(max_examples=12, deadline=None)
@given(simulations())
def test_gpus_that_hold_no_pod_return_and_no_job_changes_for_ever(simulation: Simulation) -> None:
    simulation.run(timedelta(hours=2))
    for each in simulation.jobs:
        limit = 2 * each.request.max_changes_per_hour
        assert changes_per_hour(each.changed_at) <= limit, Counter(each.changed_at)


def test_a_job_whose_growth_is_always_refused_asks_less_and_less_often() -> None:
    grower = job("a", max_workers=8, policy="Manual", start_workers=8, created_at=NOW)
    probe = job("probe", min_workers=3, max_workers=3, created_at=NOW + timedelta(seconds=1))
    simulation = Simulation(8, [grower, probe], lambda name, index, _: name == "a" and index >= 2)
    simulation.run(timedelta(hours=2))
    asked, probing = simulation.jobs
    assert key("probe") == probing.request.key
    assert probing.bound == 3, "it starts with what the first job gave back"
    assert asked.bound == asked.request.admitted_workers == 2
    minutes = [(moment - NOW) / timedelta(minutes=1) for moment in asked.changed_at]
    grown = minutes[2::2]
    pauses = [round(later - earlier) for earlier, later in pairwise(grown)]
    assert pauses == [11, 21, 41]
