"""`python -m tests.hostile`: the hostile test for any time and number of seeds."""

from __future__ import annotations

import asyncio
import random
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from tests.faults.history import Violation
from tests.hostile.experiment import open_experiment
from tests.integration.conftest import open_control_plane


def main(
    seed: Annotated[int | None, typer.Option(help="Of the schedule; random by default.")] = None,
    minutes: Annotated[float, typer.Option(help="Duration of the attacks.")] = 2.0,
    rounds: Annotated[int, typer.Option(help="Number of runs, each with the next seed.")] = 1,
    name: Annotated[str, typer.Option(help="The cluster; created if it does not exist.")] = (
        "trainyard-hostile"
    ),
    is_quiet: Annotated[bool, typer.Option("--quiet", help="Print violations only.")] = False,
) -> None:
    """Let hostile actors act beside honest jobs, which must not notice them."""
    first = random.randrange(2**31) if seed is None else seed
    failed = False
    with open_control_plane(name) as cluster:
        for number in range(first, first + rounds):
            folder = Path(tempfile.mkdtemp(prefix=f"hostile-{number}-"))
            print(f"seed {number}, {minutes:g} min, logs in {folder}", flush=True)
            failed |= not asyncio.run(
                _run(cluster.kubeconfig, folder, number, minutes * 60, not is_quiet)
            )
    raise typer.Exit(int(failed))


async def _run(kubeconfig: Path, folder: Path, seed: int, seconds: float, is_verbose: bool) -> bool:
    async with open_experiment(kubeconfig, folder, seed, is_verbose=is_verbose) as experiment:
        try:
            await experiment.run(seconds)
        except Violation as violation:
            print(violation, flush=True)
        history = experiment.history
        passed = not history.violations
        counts = ", ".join(f"{count} {kind}" for kind, count in history.counts.most_common())
        print(f"{experiment.summary()}\nseed {seed}: {'passed' if passed else 'FAILED'}: {counts}")
        return passed


if __name__ == "__main__":
    typer.run(main)
