"""Two hours of the scheduler in a closed loop with jobs whose speed it cannot see."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

from tests.support.requests import GPU, NOW, figure, job, pods
from trainyard.api.cluster import Cluster, Node
from trainyard.scheduling.allocation import allocate
from trainyard.scheduling.request import Decision, PastChange

TICK = timedelta(seconds=5)
JOIN_TICKS = 3


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


class World:
    """A cluster of one node that carries out decisions and measures true speeds, with noise."""

    def __init__(self, gpus: int, curves: dict[str, Callable[[int], float]], **fields: Any) -> None:
        self.curves = curves
        self.now = NOW
        self.node = Node(name="n0", gpus={GPU: gpus})
        self.jobs = {name: job(name, max_workers=8, created_at=NOW, **fields) for name in curves}
        self.joining = dict.fromkeys(curves, 0)
        self.trace: dict[str, list[int]] = {name: [] for name in curves}

    def run(self, time: timedelta) -> None:
        for tick in range(time // TICK):
            bound = [p for n, one in self.jobs.items() for p in pods(n, "n0", one.admitted_workers)]
            where = Cluster(nodes=(self.node,), pods=tuple(bound))
            assert sum(pod.gpus for pod in bound) <= self.node.gpus[GPU]
            for k, decision in allocate(tuple(self.jobs.values()), where, self.now).items():
                self._carry_out(k.name, decision)
                self._measure(k.name, tick)
            self.now += TICK

    def _carry_out(self, name: str, decision: Decision) -> None:
        one = self.jobs[name]
        if decision.workers == one.admitted_workers:
            return
        change = PastChange(
            from_workers=one.admitted_workers, to_workers=decision.workers, decided_at=self.now
        )
        self.jobs[name] = replace(
            one,
            admitted_workers=decision.workers,
            admitted_at=one.admitted_at or self.now,
            decided_at=self.now,
            history=(*one.history, change),
        )
        self.joining[name] = JOIN_TICKS
        self.trace[name].append(decision.workers)

    def _measure(self, name: str, tick: int) -> None:
        one = self.jobs[name]
        here = one.admitted_workers
        self.joining[name] -= 1
        is_running = here > 0 and self.joining[name] <= 0
        profile = {entry.workers: entry for entry in one.profile}
        if is_running:
            steps = 10 * -self.joining[name]
            noise = 1 + 0.02 * math.sin(tick * 7.3)
            profile[here] = figure(here, self.curves[name](here) * noise, steps + 1)
        self.jobs[name] = replace(
            one,
            is_running=is_running,
            measured_at=self.now,
            profile=tuple(profile[size] for size in sorted(profile)),
        )


def test_a_job_that_pays_until_three_workers_finds_three_and_stays_for_half_an_hour() -> None:
    world = World(8, {"a": knee})
    world.run(timedelta(minutes=30))
    assert world.trace["a"] == [1, 2, 4, 3]


def test_it_looks_again_less_and_less_often_and_does_not_thrash() -> None:
    world = World(8, {"a": knee})
    world.run(timedelta(hours=2))
    assert world.trace["a"] == [1, 2, 4, 3, 4, 3, 4, 3]


def test_a_job_that_never_pays_returns_to_one_worker() -> None:
    world = World(8, {"a": hopeless})
    world.run(timedelta(hours=2))
    assert world.trace["a"][:3] == [1, 2, 1]
    assert world.jobs["a"].admitted_workers == 1
    assert len(world.trace["a"]) == 7


def test_of_two_jobs_the_one_that_gains_more_ends_with_more() -> None:
    world = World(6, {"gentle": gentle, "steep": steep})
    world.run(timedelta(minutes=30))
    ends = {name: one.admitted_workers for name, one in world.jobs.items()}
    assert ends["steep"] > ends["gentle"]
    assert sum(ends.values()) == 6
    world.run(timedelta(minutes=90))
    assert {name: one.admitted_workers for name, one in world.jobs.items()} == ends


def test_a_recommending_job_is_never_changed() -> None:
    world = World(8, {"a": steep}, mode="Recommend")
    world.run(timedelta(minutes=30))
    assert world.trace["a"] == [1]
