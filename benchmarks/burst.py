"""Many jobs at once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from benchmarks.controllers import Controller
from benchmarks.load import Load, job_names
from benchmarks.observe import Observer
from benchmarks.plane import Environment, Plane
from benchmarks.report import Burst, latency, pods_exist_at, pods_run_at, status_running_at
from benchmarks.usage import PLANE, Usage, difference

AFTER_SECONDS = 10
"""How long the controller's CPU is measured after the last status."""
_JOBS_PER_SECOND = 2
"""Slower than this makes the burst fail."""
_LEAST_SECONDS = 60


async def burst(
    plane: Plane, environment: Environment, controller: Controller, jobs: int, creators: int
) -> Burst:
    """Create so many jobs at once and follow them until all statuses are Running."""
    usage = Usage.of(controller.pid)
    cpu, requests = usage.cpu_seconds, controller.requests()
    plane_cpu, plane_requests = plane.cpu_seconds(), await plane.requests()
    patience = _LEAST_SECONDS + jobs / _JOBS_PER_SECOND
    async with Observer(plane.client, environment.namespace) as observer, _sampled(usage):
        await Load(plane.client, environment.namespace).create(observer, job_names(jobs), creators)
        created_at = asyncio.get_running_loop().time()
        await observer.until(
            lambda: _is_done(observer, jobs, controller.pods), patience, f"{jobs} jobs Running"
        )
        cpu_used, requested = usage.cpu_seconds - cpu, controller.requests()
        plane_used = difference(plane.cpu_seconds(), plane_cpu)
        plane_requested = difference(await plane.requests(), plane_requests)
        await asyncio.sleep(AFTER_SECONDS)
    stamps = list(observer.stamps.values())
    status = latency(stamps, [status_running_at(s) for s in stamps])
    running = latency(stamps, [pods_run_at(s, controller.pods) for s in stamps])
    return Burst(
        controller=controller.name,
        jobs=jobs,
        created_seconds=round(created_at - min(s.requested_at for s in stamps), 3),
        pods=latency(stamps, [pods_exist_at(s, controller.pods) for s in stamps]),
        running=running,
        status=status,
        jobs_per_second=round(jobs / status.last, 2),
        status_behind_pods_seconds=round(status.p50 - running.p50, 3),
        cpu_ms_per_job=round(cpu_used / jobs * 1e3, 2),
        cpu_ms_per_job_after=round((usage.cpu_seconds - cpu - cpu_used) / jobs * 1e3, 2),
        peak_rss_mb=round(usage.peak_rss / 2**20, 1),
        kb_per_job=round((usage.peak_rss - usage.idle_rss) / 1024 / jobs, 1),
        requests_per_job=_per_job(requests, requested, jobs),
        plane_cpu_ms_per_job=round(sum(map(plane_used.__getitem__, PLANE)) / jobs * 1e3, 1),
        plane_cpu_ms_per_job_by_component={
            n: round(s / jobs * 1e3, 1) for n, s in plane_used.items()
        },
        plane_requests_per_job={
            n: round(c / jobs, 2) for n, c in plane_requested.items() if c >= jobs / 10
        },
    )


def _is_done(observer: Observer, jobs: int, pods: int) -> bool:
    return observer.running_statuses >= jobs and all(
        len(stamps.running) >= pods for stamps in observer.stamps.values()
    )


@contextlib.asynccontextmanager
async def _sampled(usage: Usage) -> AsyncIterator[None]:
    task = asyncio.create_task(usage.sample())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def _per_job(before: float | None, after: float | None, jobs: int) -> float | None:
    return None if before is None or after is None else round((after - before) / jobs, 2)
