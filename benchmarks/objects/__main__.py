"""`python -m benchmarks.objects`: what each part of an object costs the control plane."""

from __future__ import annotations

import asyncio
import json
import math
import os
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.load import WORKERS
from benchmarks.objects.measure import Meter, Summary, console
from benchmarks.objects.parts import Options, compare_pods, compare_schemas, compare_writes
from benchmarks.plane import open_plane, simulated_cluster
from tools.localcluster import Cluster
from trainyard_trainer.contract.env import Role


class Part(StrEnum):
    """What can be measured."""

    WRITES = "writes"
    PODS = "pods"
    SCHEMAS = "schemas"


_COMPARISONS = {
    Part.WRITES: compare_writes,
    Part.PODS: compare_pods,
    Part.SCHEMAS: compare_schemas,
}


def main(
    part: Annotated[list[Part] | None, typer.Option(help="What to measure; all without.")] = None,
    jobs: Annotated[int, typer.Option(help="Jobs a variant: schemas, writes.", min=1)] = 500,
    pods: Annotated[int, typer.Option(help="Pods a variant.", min=WORKERS)] = 600,
    repeat: Annotated[int, typer.Option(help="Runs of each variant.", min=1)] = 3,
    creators: Annotated[int, typer.Option(help="Requests under way at once.", min=1)] = 16,
    role: Annotated[Role, typer.Option(help="Whose pod is compared.")] = Role.WORKER,
    only: Annotated[str, typer.Option(help="Only variants with this in their name.")] = "",
    name: Annotated[str, typer.Option(help="The cluster's name.")] = "trainyard-bench",
    deadline: Annotated[int, typer.Option(help="Give up after so many minutes.", min=1)] = 90,
) -> None:
    """Measure variants one by one, and print all figures as JSON on the last line."""
    options = Options(jobs=jobs, pods=pods, repeat=repeat, creators=creators, role=role, only=only)
    with (
        tempfile.TemporaryDirectory(prefix="trainyard-objects-") as folder,
        simulated_cluster(name, math.ceil(pods / WORKERS), stock_limits=False) as cluster,
    ):
        summaries = asyncio.run(
            _measured(cluster, Path(folder), part or list(Part), options, deadline * 60)
        )
    print(json.dumps({**summaries, "load_average": os.getloadavg()[0]}))


async def _measured(
    cluster: Cluster, folder: Path, parts: list[Part], options: Options, seconds: int
) -> dict[str, Summary]:
    async with asyncio.timeout(seconds), open_plane(cluster, folder) as plane:
        meter = await Meter.calibrate(plane)
        console.print(f"idle, CPU seconds a second: {dict(meter.idle_cores)}")
        return {str(part): await _COMPARISONS[part](plane, meter, options) for part in parts}


if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(main)
    app()
