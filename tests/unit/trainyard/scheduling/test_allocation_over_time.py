"""Two hours of the scheduler in a closed loop with jobs whose true speed it does not know."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

from tests.support.requests import GPU, NOW, job, measurement, pods
from trainyard.api.cluster import Cluster, Node
from trainyard.api.status import Change
from trainyard.scheduling.allocation import allocate
from trainyard.scheduling.decision import Decision

INTERVAL = timedelta(seconds=5)
JOIN_CYCLES = 3


def knee(workers: int) -> float:
    """Pays until three workers, then not."""
    return 100 * math.pow(min(workers, 3), 0.95)


def hopeless(workers: int) -> float:
    """Never pays."""
    return 100 / math.pow(workers, 0.1)


def steep(workers: int) -> float:
    return 100 * math.pow(workers, 0.98)


def gentle(workers: int) -> float:
    return 900 * math.pow(workers, 0.3)


class Simulation:
    """A cluster of one node that applies decisions and measures the true speeds, with noise."""

    def __init__(self, gpus: int, curves: dict[str, Callable[[int], float]], **fields: Any) -> None:
        self.curves = curves
        self.now = NOW
        self.node = Node(name="n0", allocatable={GPU: gpus})
        self.jobs = {name: job(name, max_workers=8, created_at=NOW, **fields) for name in curves}
        self.joining = dict.fromkeys(curves, 0)
        self.trace: dict[str, list[int]] = {name: [] for name in curves}

    def run(self, time: timedelta) -> None:
        for cycle in range(time // INTERVAL):
            bound = [p for n, job in self.jobs.items() for p in pods(n, "n0", job.admitted_workers)]
            snapshot = Cluster(nodes=(self.node,), pods=tuple(bound))
            assert sum(pod.requests.get(GPU, 0) for pod in bound) <= self.node.allocatable[GPU]
            for k, decision in allocate(tuple(self.jobs.values()), snapshot, self.now).items():
                self._apply(k.name, decision)
                self._measure(k.name, cycle)
            self.now += INTERVAL

    def _apply(self, name: str, decision: Decision) -> None:
        job = self.jobs[name]
        if decision.workers == job.admitted_workers:
            return
        change = Change(
            from_=job.admitted_workers,
            to=decision.workers,
            reason=decision.reason,
            decision_time=self.now,
        )
        self.jobs[name] = replace(
            job,
            admitted_workers=decision.workers,
            admitted_at=job.admitted_at or self.now,
            decision_time=self.now,
            history=(*job.history, change),
        )
        self.joining[name] = JOIN_CYCLES
        self.trace[name].append(decision.workers)

    def _measure(self, name: str, cycle: int) -> None:
        job = self.jobs[name]
        current = job.admitted_workers
        self.joining[name] -= 1
        is_running = current > 0 and self.joining[name] <= 0
        profile = {entry.workers: entry for entry in job.profile}
        if is_running:
            steps = 10 * -self.joining[name]
            noise = 1 + 0.02 * math.sin(cycle * 7.3)
            profile[current] = measurement(current, self.curves[name](current) * noise, steps + 1)
        self.jobs[name] = replace(
            job,
            is_running=is_running,
            measured_at=self.now,
            profile=tuple(profile[size] for size in sorted(profile)),
        )


def test_a_job_that_pays_until_three_workers_finds_three_and_stays_for_half_an_hour() -> None:
    simulation = Simulation(8, {"a": knee})
    simulation.run(timedelta(minutes=30))
    assert simulation.trace["a"] == [1, 2, 4, 3]


def test_retries_become_rarer_and_the_job_does_not_oscillate() -> None:
    simulation = Simulation(8, {"a": knee})
    simulation.run(timedelta(hours=2))
    assert simulation.trace["a"] == [1, 2, 4, 3, 4, 3, 4, 3]


def test_a_job_without_a_speedup_returns_to_one_worker() -> None:
    simulation = Simulation(8, {"a": hopeless})
    simulation.run(timedelta(hours=2))
    assert simulation.trace["a"][:3] == [1, 2, 1]
    assert simulation.jobs["a"].admitted_workers == 1
    assert len(simulation.trace["a"]) == 7


def test_of_two_jobs_the_one_that_gains_more_ends_with_more() -> None:
    simulation = Simulation(6, {"gentle": gentle, "steep": steep})
    simulation.run(timedelta(minutes=30))
    final = {name: job.admitted_workers for name, job in simulation.jobs.items()}
    assert final["steep"] > final["gentle"]
    assert sum(final.values()) == 6
    simulation.run(timedelta(minutes=90))
    assert {name: job.admitted_workers for name, job in simulation.jobs.items()} == final


def test_a_recommending_job_is_never_changed() -> None:
    simulation = Simulation(8, {"a": steep}, mode="Recommend")
    simulation.run(timedelta(minutes=30))
    assert simulation.trace["a"] == [1]
