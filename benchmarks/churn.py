"""Churn: of many running jobs some are deleted, some are scaled, and some fail, all at once."""

from __future__ import annotations

import time
from dataclasses import dataclass

from benchmarks.controllers import Controller
from benchmarks.load import PODS, WORKERS, Load, concurrently, job_names
from benchmarks.observe import RUNNING, Observer
from benchmarks.plane import Environment, Plane
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
    """From the first disturbance until every job had its desired state again."""
    operator_cpu_ms_per_disturbed: float


async def churn(
    plane: Plane, environment: Environment, controller: Controller, jobs: int, creators: int
) -> Churn:
    """Bring the jobs up, disturb a tenth, and wait until all have their desired state."""
    load, all_jobs = Load(plane.client, environment.namespace), job_names(jobs)
    number = max(int(jobs * SHARE / 3), 1)
    parts = [all_jobs[start * number : (start + 1) * number] for start in range(3)]
    async with Observer(plane.client, environment.namespace) as observer:
        await load.create(observer, all_jobs, creators)
        await observer.until(
            lambda: all(is_as_desired(observer, name) for name in all_jobs), _SECONDS, "all Running"
        )
        cpu = Usage.of(controller.pid).cpu_seconds
        began = time.monotonic()
        await _disturb(load, observer, parts, creators)
        await observer.until(
            lambda: all_as_desired(observer, all_jobs, parts), _SECONDS, "all as desired"
        )
        seconds = time.monotonic() - began
        used = Usage.of(controller.pid).cpu_seconds - cpu
    return Churn(
        jobs=jobs,
        disturbed=3 * number,
        seconds=round(seconds, 2),
        operator_cpu_ms_per_disturbed=round(used / (3 * number) * 1e3, 1),
    )


def all_as_desired(observer: Observer, jobs: list[str], parts: list[list[str]]) -> bool:
    """Whether the deleted are gone, the scaled have one more, and all others have all pods."""
    deleted, scaled, failed = (frozenset(part) for part in parts)
    for name in jobs:
        if name in deleted:
            matches = name not in observer.jobs and not observer.pods.get(name)
        elif name in scaled:
            matches = is_as_desired(observer, name, WORKERS + 1)
        elif name in failed:
            matches = is_as_desired(observer, name) and len(observer.stamps[name].pods) > PODS
        else:
            matches = is_as_desired(observer, name)
        if not matches:
            return False
    return True


def is_as_desired(observer: Observer, name: str, workers: int = WORKERS) -> bool:
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
    await concurrently(disturbances, creators)
