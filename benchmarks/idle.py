"""One job on an idle system, again and again: the latencies a person feels."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from benchmarks.load import PODS, Load
from benchmarks.observe import Observer
from benchmarks.plane import Environment, Plane
from benchmarks.report import milliseconds, pods_exist_at, pods_run_at, status_running_at

TIMES = 20
SCALED = 4
_SECONDS = 30
_QUIET_SECONDS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Idle:
    """Median and maximum in milliseconds, from the request that creates the job."""

    pods: dict[str, float]
    running: dict[str, float]
    status: dict[str, float]


async def measure_idle(plane: Plane, environment: Environment, pods: int = PODS) -> Idle:
    """Create one job of two workers at a time."""
    seen = []
    load = Load(plane.client, environment.namespace)
    async with Observer(plane.client, environment.namespace) as observer:
        for index in range(TIMES):
            name = f"idle-{index:02d}"
            await load.create(observer, [name], 1)
            seen.append(observer.stamps[name])
            await _running(observer, name, pods)
    return Idle(
        pods=milliseconds([pods_exist_at(s, pods) - s.requested_at for s in seen]),
        running=milliseconds([pods_run_at(s, pods) - s.requested_at for s in seen]),
        status=milliseconds([status_running_at(s) - s.requested_at for s in seen]),
    )


async def measure_scale(plane: Plane, environment: Environment) -> dict[str, float]:
    """Scale one job of one worker to four at a time, until the pods exist."""
    took = []
    load = Load(plane.client, environment.namespace)
    async with Observer(plane.client, environment.namespace) as observer:
        for index in range(TIMES):
            name = f"scale-{index:02d}"
            await load.create(observer, [name], 1, workers=1)
            await _running(observer, name, 2)
            requested_at = time.monotonic()
            await load.scale(name, SCALED)
            await _running(observer, name, SCALED + 1)
            took.append(pods_exist_at(observer.stamps[name], SCALED + 1) - requested_at)
    return milliseconds(took)


async def _running(observer: Observer, name: str, pods: int) -> None:
    stamps = observer.stamps[name]
    await observer.until(
        lambda: len(stamps.running) == pods and stamps.status_at is not None,
        _SECONDS,
        f"{name} with {pods} pods Running",
    )
    # What follows the last status (contacts, other writers' events) is not the next job's cost.
    await asyncio.sleep(_QUIET_SECONDS)
