"""Churn: of many running jobs some are deleted, some are scaled, and some fail, all at once."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from benchmarks.load import PODS, WORKERS, Load, job_names
from benchmarks.observe import RUNNING, Observer
from benchmarks.plane import Place, Plane
from benchmarks.subject import Subject
from benchmarks.usage import Usage

SHARE = 0.1
_SECONDS = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Churn:
    """One churn run."""

    jobs: int
    disturbed: int
    """A third each deleted, scaled up by one, and with a worker failed."""
    seconds: float
    """From the first disturbance until every job was right again."""
    operator_cpu_ms_per_disturbed: float


async def churn(plane: Plane, place: Place, subject: Subject, jobs: int, creators: int) -> Churn:
    """Bring the jobs up, disturb a tenth of them, and wait until all is right again."""
    load, all_jobs = Load(plane.client, place.namespace), job_names(jobs)
    number = max(int(jobs * SHARE / 3), 1)
    parts = [all_jobs[start * number : (start + 1) * number] for start in range(3)]
    async with Observer(plane.client, place.namespace) as observer:
        await load.create(observer, all_jobs, creators)
        await observer.until(
            lambda: all(is_right(observer, name) for name in all_jobs), _SECONDS, "all Running"
        )
        cpu = Usage.of(subject.pid).cpu_seconds
        began = time.monotonic()
        await _disturb(load, observer, parts, creators)
        await observer.until(
            lambda: all_right(observer, all_jobs, parts), _SECONDS, "all right again"
        )
        seconds = time.monotonic() - began
        used = Usage.of(subject.pid).cpu_seconds - cpu
    return Churn(
        jobs=jobs,
        disturbed=3 * number,
        seconds=round(seconds, 2),
        operator_cpu_ms_per_disturbed=round(used / (3 * number) * 1e3, 1),
    )


def all_right(observer: Observer, jobs: list[str], parts: list[list[str]]) -> bool:
    """Whether the deleted are gone, the scaled have one more, and all others are whole."""
    deleted, scaled, failed = (frozenset(part) for part in parts)
    for name in jobs:
        if name in deleted:
            is_fine = name not in observer.jobs and not observer.pods.get(name)
        elif name in scaled:
            is_fine = is_right(observer, name, WORKERS + 1)
        elif name in failed:
            is_fine = is_right(observer, name) and len(observer.stamps[name].pods) > PODS
        else:
            is_fine = is_right(observer, name)
        if not is_fine:
            return False
    return True


def is_right(observer: Observer, name: str, workers: int = WORKERS) -> bool:
    """Whether the job has so many workers, all its live pods run, and its status says so."""
    status = observer.jobs.get(name)
    if status is None or status.phase != RUNNING or status.replicas != workers:
        return False
    phases = list(observer.pods.get(name, {}).values())
    return phases.count(RUNNING) == workers + 1 and "Pending" not in phases


async def _disturb(load: Load, observer: Observer, parts: list[list[str]], creators: int) -> None:
    deleted, scaled, failed = parts
    worker = {name: next(p for p in observer.pods[name] if "-worker-" in p) for name in failed}
    disturbances = [
        step
        for names in zip(deleted, scaled, failed, strict=True)
        for step in (
            load.delete(names[0]),
            load.scale(names[1], WORKERS + 1),
            load.fail(worker[names[2]]),
        )
    ]
    places = asyncio.Semaphore(creators)

    async def one(index: int) -> None:
        async with places:
            await disturbances[index]

    await asyncio.gather(*(one(index) for index in range(len(disturbances))))
