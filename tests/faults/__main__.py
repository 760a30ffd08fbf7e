"""`python -m tests.faults`: the fault test for any time and number of seeds."""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from tests.faults.experiment import open_experiment
from tests.faults.history import Violation
from tests.integration.conftest import open_control_plane


def main(
    seed: Annotated[int | None, typer.Option(help="Of the schedule; random by default.")] = None,
    seconds: Annotated[float, typer.Option(help="Duration of the faults.")] = 120.0,
    rounds: Annotated[int, typer.Option(help="Number of runs, each with the next seed.")] = 1,
    replicas: Annotated[int, typer.Option(help="Number of operators.")] = 3,
    name: Annotated[str, typer.Option(help="The cluster; created if it does not exist.")] = (
        "trainyard-faults"
    ),
    is_quiet: Annotated[bool, typer.Option("--quiet", help="Print violations only.")] = False,
) -> None:
    """Inject faults while jobs are created, changed and deleted, then check the final state."""
    first = random.randrange(2**31) if seed is None else seed
    failed = False
    with open_control_plane(name) as cluster:
        for number in range(first, first + rounds):
            folder = Path(tempfile.mkdtemp(prefix=f"faults-{number}-"))
            print(f"seed {number}, {seconds:g} s, logs in {folder}", flush=True)
            failed |= not asyncio.run(
                _run(cluster.kubeconfig, folder, number, seconds, replicas, not is_quiet)
            )
    raise typer.Exit(int(failed))


async def _run(
    kubeconfig: Path, folder: Path, seed: int, seconds: float, replicas: int, is_verbose: bool
) -> bool:
    started = time.monotonic()
    async with open_experiment(
        kubeconfig, folder, seed, replicas=replicas, is_verbose=is_verbose
    ) as experiment:
        try:
            await experiment.run(seconds)
        except Violation as violation:
            print(violation, flush=True)
        history = experiment.history
        passed = not history.violations
        counts = ", ".join(f"{count} {kind}" for kind, count in history.counts.most_common())
        took = time.monotonic() - started
        print(f"seed {seed}: {'passed' if passed else 'FAILED'} after {took:.0f} s: {counts}")
        return passed


if __name__ == "__main__":
    typer.run(main)
