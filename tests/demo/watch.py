"""The live view of the jobs: their state, their progress, and each decision as it is made."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from trainyard.api import names
from trainyard.cluster.client import KubeClient
from trainyard.lifecycle.desired import Phase

INTERVAL_SECONDS = 1.0
Job = dict[str, Any]


Jobs = dict[str, Job]
"""The job of each kind."""


async def watch(
    client: KubeClient,
    paths: Mapping[str, str],
    console: Console,
    meddle: Callable[[Jobs], Awaitable[list[str]]],
    seconds: float,
) -> Jobs:
    """Show the jobs until all are over; raises TimeoutError after `seconds`.

    `meddle` is asked at each look, and what it did is told.
    """
    told: set[str] = set()
    async with asyncio.timeout(seconds):
        with Live(console=console, auto_refresh=False, transient=True) as live:
            while True:
                jobs = {kind: await client.get(path) for kind, path in paths.items()}
                lines = news(jobs[names.DISTRIBUTED_JOB], told)
                for line in [*lines, *await meddle(jobs)]:
                    live.console.print(line)
                live.update(Group(*(view(job) for job in jobs.values())), refresh=True)
                if all(is_over(job) for job in jobs.values()):
                    return jobs
                await asyncio.sleep(INTERVAL_SECONDS)


def is_over(job: Job) -> bool:
    """Whether nothing more will come of the job."""
    return (job.get("status") or {}).get("phase") in (Phase.COMPLETE, Phase.FAILED)


def news(job: Job, told: set[str]) -> list[str]:
    """Decisions and conditions that have not been told yet, as lines."""
    status = job.get("status") or {}
    lines = []
    for change in (status.get("scaling") or {}).get("history", []):
        key = f"{change['decisionTime']} {change.get('measuredSpeedup') is not None}"
        if key not in told:
            told.add(key)
            lines.append(describe(change))
    return lines


def describe(change: dict[str, Any]) -> str:
    """One change of the number of workers, in words."""
    head = f"[bold]{change['from']} → {change['to']} workers[/bold] ({change['reason']})"
    if (measured := change.get("measuredSpeedup")) is not None:
        return f"{head}: brought [green]{measured:.2f}×[/green] the samples per second"
    expected = change.get("expectedSpeedup")
    return f"{head}: expects {expected:.2f}×" if expected else head


def view(job: Job) -> Group:
    """The job as it stands."""
    return _federation(job) if job["kind"] == names.FEDERATED_JOB else _workers(job)


def _federation(job: Job) -> Group:
    status = job.get("status") or {}
    training, last = status.get("training") or {}, job["spec"]["rounds"]["max"]
    figures = {
        "hospitals": status.get("phase", "Pending"),
        "parties": f"{training.get('parties', 0)} of {len(job['spec']['parties'])}",
        "round": f"{training.get('round', 0)} of {last}",
        "s/round": f"{training.get('roundSeconds', 0):.2f}",
        **_learned(training),
    }
    parties = "  ".join(f"{p['name']} {p['state']}" for p in status.get("parties", []))
    bar = ProgressBar(total=last, completed=training.get("round", 0), width=60)
    return Group(_line(figures), bar, Text(parties, style="dim", overflow="ellipsis"))


def _workers(job: Job) -> Group:
    status = job.get("status") or {}
    training, scaling = status.get("training") or {}, status.get("scaling") or {}
    figures = {
        "mnist": status.get("phase", "Pending"),
        "workers": f"{status.get('replicas', 0)} of {scaling.get('desired', 0)}",
        "step": training.get("step", 0),
        "samples/s": f"{training.get('samplesPerSecond', 0):,.0f}",
        **_learned(training),
    }
    epochs = job["spec"]["training"]["epochs"]
    bar = ProgressBar(total=epochs, completed=training.get("epoch", 0), width=60)
    return Group(
        _line(figures), bar, Text(scaling.get("message", ""), style="dim", overflow="ellipsis")
    )


def _learned(training: dict[str, Any]) -> dict[str, str]:
    loss = {"loss": f"{training['loss']:.4f}" if "loss" in training else "–"}
    return loss | {k: f"{v:.4f}" for k, v in (training.get("evaluation") or {}).items()}


def _line(figures: dict[str, Any]) -> Table:
    table = Table.grid(padding=(0, 2))
    for name in figures:
        table.add_column(name)
    table.add_row(*(f"[dim]{name}[/dim] {value}" for name, value in figures.items()))
    return table
