"""What all jobs share: exchanges by namespace, and writes of figures."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from tests.support.dependencies import dependencies_of
from tests.support.fakeapi import FakeApi, Object
from tests.support.jobs import NOW, at, coordinator, has_run, make_job, worker
from trainyard.api.jobs import DistributedJob, Job
from trainyard.api.names import DISTRIBUTED_JOB, Key
from trainyard.api.podset import group_pods
from trainyard.api.report import CoordinatorReport
from trainyard.lifecycle.observation import Observation
from trainyard.lifecycle.stages import evaluate
from trainyard.reconcile.dependencies import FIGURES_PER_SECOND, Dependencies
from trainyard.reconcile.queue import WorkQueue
from trainyard.reconcile.rates import RateLimiter
from trainyard.reconcile.status import write_status

# --- Exchanges ---


class Exchanges:
    """A queue of exchanges, those of slow coordinators last until the test ends them."""

    def __init__(self, *, workers: int, share: int) -> None:
        self.queue: WorkQueue[Key] = WorkQueue(
            "exchange",
            self._exchange,
            workers=workers,
            group=lambda key: key.namespace,
            share=share,
        )
        self.running: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        """The most that ran at once, by namespace."""
        self.done: Counter[Key] = Counter()
        self.release = asyncio.Event()

    async def _exchange(self, key: Key) -> float | None:
        self.running[key.namespace] += 1
        self.most[key.namespace] = max(self.most[key.namespace], self.running[key.namespace])
        try:
            if key.namespace == "slow":
                await self.release.wait()
        finally:
            self.running[key.namespace] -= 1
        self.done[key] += 1
        return None


def keys(namespace: str, count: int) -> list[Key]:
    return [Key(DISTRIBUTED_JOB, namespace, f"job-{number}") for number in range(count)]


async def test_slow_coordinators_of_one_namespace_delay_no_other_namespace() -> None:
    """They did: fifty of them occupied all 32 workers, and everybody's metrics went stale."""
    exchanges = Exchanges(workers=8, share=2)
    slow, honest = keys("slow", 50), keys("team", 20)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        running = group.create_task(exchanges.queue.run())
        for key in slow + honest:
            exchanges.queue.add(key)
        while exchanges.done.total() < len(honest):
            await asyncio.sleep(0.01)
        assert set(exchanges.done) == set(honest), "all of them, while the slow ones still run"
        assert exchanges.running["slow"] == 2
        exchanges.release.set()
        while exchanges.done.total() < len(slow) + len(honest):
            await asyncio.sleep(0.01)
        running.cancel()
    assert set(exchanges.done.values()) == {1}, "whoever waited got its turn, once"
    assert exchanges.most["slow"] == 2


async def test_an_exchange_that_fails_gives_its_place_to_the_next() -> None:
    first, second = keys("team", 2)
    failed = asyncio.Event()
    handled: list[Key] = []

    async def handle(key: Key) -> float | None:
        handled.append(key)
        if key == first:
            queue.add(second)
            await asyncio.sleep(0.05)
            assert handled == [first], "the second one waits"
            failed.set()
            raise RuntimeError("broken")
        return None

    queue: WorkQueue[Key] = WorkQueue(
        "exchange",
        handle,
        workers=4,
        group=lambda key: key.namespace,
        share=1,
        debounce_seconds=0.0,
        backoff_seconds=60.0,
    )
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        running = group.create_task(queue.run())
        queue.add(first)
        while handled != [first, second]:
            await asyncio.sleep(0.01)
        running.cancel()
    assert failed.is_set()


# --- Figures ---


def test_moments_are_spaced_and_never_past() -> None:
    limiter = RateLimiter(10)
    first = [limiter.reserve(NOW) for _ in range(3)]
    assert first == [NOW + n * timedelta(milliseconds=100) for n in range(3)]
    assert limiter.reserve(NOW + timedelta(hours=1)) == NOW + timedelta(hours=1)


class StatusApi(FakeApi):
    """Stores statuses, and when each was written."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.writes: list[datetime] = []

    async def update(self, path: str, body: Object, **rest: Any) -> Object:
        self.writes.append(self.now)
        return await super().update(path, body, **rest)


ASSIGNED = {"desired": 1, "recommended": 1, "reason": "Admitted", "decisionTime": at()}


def running_job(name: str) -> DistributedJob:
    return make_job({}, has_run(scaling=ASSIGNED), name=name, uid=f"uid-of-{name}")


async def write(deps: Dependencies, job: Job, step: int, now: datetime) -> datetime | None:
    """What a reconcile does once the coordinator has reported that step."""
    state = deps.job_state(job)
    report = CoordinatorReport(at=now, wire=1, term=1, step=step, members={"active": 1})
    state.coordinator.report = report
    pods, assignment = group_pods(deps.cache.pods_of(job.key), job.uid), state.assignment.value
    observed = Observation.of(job, pods, assignment, report, deps.options.timeouts, now)
    return await write_status(deps, job, state, evaluate(observed), now)


def cache_pods(deps: Dependencies, job: Job) -> None:
    """The job's coordinator and worker run."""
    for pod in (coordinator(), worker()):
        uid = f"{job.uid}-{pod.uid}"
        deps.cache.put_pod(replace(pod, job=job.key, owner_uid=job.uid, name=uid, uid=uid))


async def test_figures_of_all_jobs_are_limited_and_changes_are_not() -> None:
    api, jobs = StatusApi(), [running_job(f"job-{n}") for n in range(100)]
    deps = dependencies_of(api, *jobs)
    for job in jobs:
        cache_pods(deps, job)
        await write(deps, job, 1, NOW)
    assert api.writes == [NOW] * len(jobs), "conditions changed: all at once"
    api.writes.clear()
    due = {job.key: NOW for job in jobs}
    for tick in range(1, 400):
        api.now = NOW + tick * timedelta(milliseconds=50)
        for key, due_at in due.items():
            if due_at <= api.now:
                again = await write(deps, deps.cache.jobs[key], tick, api.now)
                due[key] = again or api.now
    seconds = Counter((moment - NOW) // timedelta(seconds=1) for moment in api.writes)
    assert max(seconds.values()) <= FIGURES_PER_SECOND + 1
    assert len(api.writes) > 10 * FIGURES_PER_SECOND, "the limit is used"
