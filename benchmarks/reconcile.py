"""`python -m benchmarks.reconcile`: how fast the operator brings jobs up, beside a bare client."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import signal
import tempfile
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.burst import burst
from benchmarks.churn import Churn, churn
from benchmarks.idle import Idle, measure_idle, measure_scale
from benchmarks.plane import Plane, open_plane, simulated_cluster
from benchmarks.report import Burst, spread
from benchmarks.subject import bare_client, operator
from benchmarks.template import Template, record

SWEEP = (100, 500, 1000, 2000)
CHURN_JOBS = 1000
IN_FLIGHT = (16, 32, 64)
"""Requests under way at once that the bare client is tried with; its best counts."""

console = Console(highlight=False)


@dataclass(slots=True)
class Findings:
    """All that one run of the benchmark found."""

    operator: list[Burst] = field(default_factory=list)
    floor: list[Burst] = field(default_factory=list)
    idle: Idle | None = None
    idle_floor: Idle | None = None
    scale: dict[str, float] | None = None
    churn: Churn | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What is to be measured."""

    sizes: tuple[int, ...]
    repeat: int
    creators: int
    with_idle: bool
    with_churn: bool


def main(
    jobs: Annotated[int, typer.Option(help="Jobs of one burst.", min=1)] = 1000,
    sweep: Annotated[bool, typer.Option(help="100, 500, 1,000 and 2,000 jobs, and churn.")] = False,
    repeat: Annotated[int, typer.Option(help="Runs of each burst.", min=1)] = 1,
    creators: Annotated[int, typer.Option(help="Clients that create jobs at once.", min=1)] = 16,
    idle: Annotated[bool, typer.Option(help="Also one job at a time, 20 times.")] = True,
    churn: Annotated[bool, typer.Option(help="Also the churn run.")] = False,
    stock_limits: Annotated[bool, typer.Option(help="Client limits as shipped.")] = False,
    name: Annotated[str, typer.Option(help="The cluster's name.")] = "trainyard-bench",
    deadline: Annotated[int, typer.Option(help="Give up after so many minutes.", min=1)] = 90,
) -> None:
    """Measure, tell as it goes, and print all figures as JSON on the last line."""
    wishes = Wishes(
        sizes=SWEEP if sweep else (jobs,),
        repeat=repeat,
        creators=creators,
        with_idle=idle,
        with_churn=churn or sweep,
    )
    most = max(*wishes.sizes, CHURN_JOBS if wishes.with_churn else 0)
    with (
        tempfile.TemporaryDirectory(prefix="trainyard-bench-") as folder,
        simulated_cluster(name, most, stock_limits=stock_limits) as cluster,
    ):
        found = asyncio.run(_measured(cluster, Path(folder), wishes, deadline * 60))
    document = {"stock_limits": stock_limits, **as_document(found)}
    print(json.dumps(document))


async def _measured(cluster: Any, folder: Path, wishes: Wishes, seconds: int) -> Findings:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    found = Findings()
    async with asyncio.timeout(seconds), open_plane(cluster, folder) as plane:
        template = await _first(plane, wishes, found)
        for jobs in wishes.sizes:
            in_flight = await _fastest(plane, template, jobs, wishes, found)
            for turn in range(wishes.repeat):
                if turn:
                    await _floor(plane, template, jobs, in_flight, wishes, found)
                await _operator(plane, jobs, wishes, found)
        if wishes.with_churn:
            async with plane.place() as place:
                with operator(place.kubeconfig, place.operator_namespace, folder) as subject:
                    found.churn = await churn(plane, place, subject, CHURN_JOBS, wishes.creators)
                    _tell_churn(found.churn)
    return found


async def _first(plane: Plane, wishes: Wishes, found: Findings) -> Template:
    """One job, whose requests the bare client repeats; then the figures of an idle system."""
    async with plane.place() as place:
        with operator(place.kubeconfig, place.operator_namespace, plane.folder) as _:
            template = await record(plane.client, place.namespace, place.operator_namespace)
            if wishes.with_idle:
                found.idle = await measure_idle(plane, place)
                found.scale = await measure_scale(plane, place)
    if wishes.with_idle:
        async with plane.place() as place:
            moved = template.moved(place.namespace, place.operator_namespace)
            with bare_client(place.kubeconfig, moved, plane.folder, IN_FLIGHT[0]):
                found.idle_floor = await measure_idle(plane, place)
        console.print(f"idle, operator: {found.idle}\nidle, floor: {found.idle_floor}")
        console.print(f"scale 1 → 4: {found.scale}")
    return template


async def _fastest(
    plane: Plane, template: Template, jobs: int, wishes: Wishes, found: Findings
) -> int:
    """How many requests under way suit the bare client best; its bursts are taken down."""
    return max(
        [
            (await _floor(plane, template, jobs, in_flight, wishes, found), in_flight)
            for in_flight in IN_FLIGHT
        ]
    )[1]


async def _floor(
    plane: Plane, template: Template, jobs: int, in_flight: int, wishes: Wishes, found: Findings
) -> float:
    async with plane.place() as place:
        moved = template.moved(place.namespace, place.operator_namespace)
        with bare_client(place.kubeconfig, moved, plane.folder, in_flight) as subject:
            result = await burst(plane, place, subject, jobs, wishes.creators)
    found.floor.append(result)
    _tell(result)
    return result.jobs_per_second


async def _operator(plane: Plane, jobs: int, wishes: Wishes, found: Findings) -> None:
    async with plane.place() as place:
        with operator(place.kubeconfig, place.operator_namespace, plane.folder) as subject:
            result = await burst(plane, place, subject, jobs, wishes.creators)
    found.operator.append(result)
    _tell(result)


def as_document(found: Findings) -> dict[str, Any]:
    """The figures under the names by which they are asked for; the largest burst stands for all."""
    most = max(b.jobs for b in found.operator)
    ours = [b for b in found.operator if b.jobs == most]
    best = {n: min(b.status.last for b in found.floor if b.jobs == n) for n in _sizes(found)}
    ratios = [b.status.last / best[b.jobs] for b in ours]
    return {
        "jobs": most,
        "jobs_per_second": median(b.jobs_per_second for b in ours),
        "ratio_to_floor": round(median(ratios), 3),
        "cpu_ms_per_job": median(b.cpu_ms_per_job for b in ours),
        "requests_per_job": median(b.requests_per_job or 0 for b in ours),
        "peak_rss_mb": max(b.peak_rss_mb for b in ours),
        "kb_per_job": median(b.kb_per_job for b in ours),
        "status_behind_pods_seconds": median(b.status_behind_pods_seconds for b in ours),
        "idle_running_ms": found.idle.status["median"] if found.idle else None,
        "idle_pods_ms": found.idle.pods["median"] if found.idle else None,
        "scale_pods_ms": found.scale["median"] if found.scale else None,
        "sizes": {
            str(n): {
                "ratio_to_floor": spread(
                    [round(b.status.last / best[n], 3) for b in found.operator if b.jobs == n]
                ),
                "jobs_per_second": spread(
                    [b.jobs_per_second for b in found.operator if b.jobs == n]
                ),
            }
            for n in _sizes(found)
        },
        "operator": [asdict(b) for b in found.operator],
        "floor": [asdict(b) for b in found.floor],
        "idle": asdict(found.idle) if found.idle else None,
        "idle_floor": asdict(found.idle_floor) if found.idle_floor else None,
        "scale": found.scale,
        "churn": asdict(found.churn) if found.churn else None,
        "machine": {
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "kopf": version("kopf"),
            "load_average": os.getloadavg()[0],
        },
    }


def _sizes(found: Findings) -> list[int]:
    return sorted({b.jobs for b in found.operator})


def _tell(b: Burst) -> None:
    console.print(
        f"{b.jobs} jobs, {b.subject}: {b.jobs_per_second} jobs/s; pods {b.pods.p50}/{b.pods.last} s"
        f", Running {b.running.p50}/{b.running.last} s, status {b.status.p50}/{b.status.last} s"
        f"; {b.cpu_ms_per_job} ms CPU (+{b.cpu_ms_per_job_after} after), {b.kb_per_job} KB"
        f", {b.requests_per_job} requests a job"
    )
    console.print(f"  plane: {b.plane_cpu_ms_per_job} ms; {b.plane_requests_per_job}", style="dim")


def _tell_churn(result: Churn) -> None:
    console.print(
        f"churn: {result.disturbed} of {result.jobs} jobs right again after {result.seconds} s"
        f", {result.operator_cpu_ms_per_disturbed} ms CPU each"
    )


if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(main)
    app()
