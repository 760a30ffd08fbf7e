"""`python -m tests.faults`: the drill for as long as one likes, on a cluster of its own."""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from tests.faults.chronicle import Violation
from tests.faults.drill import prepare
from tests.integration.conftest import install_crds
from tools.localcluster import ClusterOptions, open_cluster


def main(
    seed: Annotated[int | None, typer.Option(help="Of the schedule; none: any.")] = None,
    seconds: Annotated[float, typer.Option(help="How long faults come.")] = 120.0,
    rounds: Annotated[int, typer.Option(help="So many times, each with the next seed.")] = 1,
    replicas: Annotated[int, typer.Option(help="Operators side by side.")] = 3,
    name: Annotated[str, typer.Option(help="The cluster; made if there is none.")] = (
        "trainyard-faults"
    ),
    is_quiet: Annotated[bool, typer.Option("--quiet", help="No events but faulty ones.")] = False,
) -> None:
    """Let operators, connections and nodes fail while jobs come and go, then judge."""
    first = random.randrange(2**31) if seed is None else seed
    failed = False
    with open_cluster(ClusterOptions(name=name, control_plane_only=True)) as cluster:
        install_crds(cluster)
        for number in range(first, first + rounds):
            folder = Path(tempfile.mkdtemp(prefix=f"faults-{number}-"))
            print(f"seed {number}, {seconds:g} s, logs in {folder}", flush=True)
            failed |= not asyncio.run(
                _drill(cluster.kubeconfig, folder, number, seconds, replicas, not is_quiet)
            )
    raise typer.Exit(int(failed))


async def _drill(
    kubeconfig: Path, folder: Path, seed: int, seconds: float, replicas: int, is_loud: bool
) -> bool:
    started = time.monotonic()
    async with prepare(kubeconfig, folder, seed, replicas=replicas, is_loud=is_loud) as drill:
        try:
            await drill.run(seconds)
        except Violation as violation:
            print(violation, flush=True)
        is_well = not drill.chronicle.violations
        counts = ", ".join(f"{n} {what}" for what, n in drill.chronicle.counts.most_common())
        took = time.monotonic() - started
        print(f"seed {seed}: {'right' if is_well else 'WRONG'} after {took:.0f} s: {counts}")
        return is_well


if __name__ == "__main__":
    typer.run(main)
