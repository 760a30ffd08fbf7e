"""Many jobs at once."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator

from benchmarks.load import PODS, Load, job_names
from benchmarks.observe import Observer, Stamps
from benchmarks.plane import Place, Plane
from benchmarks.report import Burst, latency, pods_exist_at, pods_run_at, says_running_at
from benchmarks.subject import Subject
from benchmarks.usage import Usage

AFTER_SECONDS = 10
"""How long the subject is followed after the last status."""
_JOBS_PER_SECOND = 2
"""Slower than this is not waited for."""
_LEAST_SECONDS = 60


async def burst(plane: Plane, place: Place, subject: Subject, jobs: int, creators: int) -> Burst:
    """Create so many jobs at once and follow them until all statuses say Running."""
    usage = Usage.of(subject.pid)
    cpu, requests = usage.cpu_seconds, subject.requests()
    plane_cpu, plane_requests = plane.cpu_seconds(), await plane.requests()
    patience = _LEAST_SECONDS + jobs / _JOBS_PER_SECOND
    async with Observer(plane.client, place.namespace) as observer, _sampled(usage):
        await Load(plane.client, place.namespace).create(observer, job_names(jobs), creators)
        created_at = asyncio.get_running_loop().time()
        await observer.until(lambda: _is_done(observer, jobs), patience, f"{jobs} jobs Running")
        cpu_used, requested = usage.cpu_seconds - cpu, subject.requests()
        plane_used = _less(plane.cpu_seconds(), plane_cpu)
        plane_requested = _less(await plane.requests(), plane_requests)
        await asyncio.sleep(AFTER_SECONDS)
    stamps = list(observer.stamps.values())
    status = latency(stamps, [says_running_at(s) for s in stamps])
    running = latency(stamps, [pods_run_at(s) for s in stamps])
    return Burst(
        subject=subject.name,
        jobs=jobs,
        created_seconds=round(created_at - min(s.asked_at for s in stamps), 3),
        pods=latency(stamps, [pods_exist_at(s) for s in stamps]),
        running=running,
        status=status,
        jobs_per_second=round(jobs / status.last, 2),
        status_behind_pods_seconds=round(status.p50 - running.p50, 3),
        cpu_ms_per_job=round(cpu_used / jobs * 1e3, 2),
        cpu_ms_per_job_after=round((usage.cpu_seconds - cpu - cpu_used) / jobs * 1e3, 2),
        peak_rss_mb=round(usage.peak_rss / 2**20, 1),
        kb_per_job=round((usage.peak_rss - usage.idle_rss) / 1024 / jobs, 1),
        requests_per_job=_per_job(requests, requested, jobs),
        plane_cpu_ms_per_job={n: round(s / jobs * 1e3, 1) for n, s in plane_used.items()},
        plane_requests_per_job={
            n: round(c / jobs, 2) for n, c in plane_requested.items() if c >= jobs / 10
        },
    )


def _is_done(observer: Observer, jobs: int) -> bool:
    return observer.running_statuses >= jobs and all(map(_has_run, observer.stamps.values()))


def _has_run(stamps: Stamps) -> bool:
    return len(stamps.running) >= PODS


@contextlib.asynccontextmanager
async def _sampled(usage: Usage) -> AsyncIterator[None]:
    task = asyncio.create_task(usage.sample())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def _less(
    after: dict[str, float] | Counter[str], before: dict[str, float] | Counter[str]
) -> dict[str, float]:
    return {name: value - before.get(name, 0) for name, value in after.items()}


def _per_job(before: float | None, after: float | None, jobs: int) -> float | None:
    return None if before is None or after is None else round((after - before) / jobs, 2)
