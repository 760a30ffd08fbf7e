"""A live display of the jobs: their state, their progress, and every scaling decision."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
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


async def show_progress(
    client: KubeClient,
    paths: Mapping[str, str],
    console: Console,
    on_refresh: Callable[[Jobs], Awaitable[list[str]]],
    seconds: float,
) -> Jobs:
    """Display the jobs until all have finished; raises TimeoutError after `seconds`.

    Every refresh calls `on_refresh` and prints the messages that it returns.
    """
    printed: set[str] = set()
    async with asyncio.timeout(seconds):
        with Live(console=console, auto_refresh=False, transient=True) as live:
            while True:
                jobs = {kind: await client.get(path) for kind, path in paths.items()}
                messages = new_decisions(jobs[names.DISTRIBUTED_JOB], printed)
                for message in [*messages, *await on_refresh(jobs)]:
                    live.console.print(message)
                live.update(Group(*(render(job) for job in jobs.values())), refresh=True)
                if all(is_finished(job) for job in jobs.values()):
                    return jobs
                await asyncio.sleep(INTERVAL_SECONDS)


def is_finished(job: Job) -> bool:
    """Whether the job is complete or has failed."""
    return (job.get("status") or {}).get("phase") in (Phase.COMPLETE, Phase.FAILED)


def new_decisions(job: Job, printed: set[str]) -> list[str]:
    """Descriptions of the scaling decisions not in `printed`, which they are added to."""
    status = job.get("status") or {}
    descriptions = []
    for change in (status.get("scaling") or {}).get("history", []):
        key = f"{change['decisionTime']} {change.get('measuredSpeedup') is not None}"
        if key not in printed:
            printed.add(key)
            descriptions.append(describe(change))
    return descriptions


def describe(change: dict[str, Any]) -> str:
    """A description of one change of the number of workers, with why a size was given up."""
    prefix = f"[bold]{change['from']} → {change['to']} workers[/bold] ({change['reason']})"
    if why := change.get("message"):
        prefix += f": {escape(why)}"
    if (measured := change.get("measuredSpeedup")) is not None:
        prefix += f"{';' if why else ':'} measured [green]{measured:.2f}×[/green]"
        return f"{prefix} the samples per second"
    expected = None if why else change.get("expectedSpeedup")
    return f"{prefix}: expected {expected:.2f}×" if expected else prefix


def render(job: Job) -> Group:
    """The display of one job."""
    return _federation(job) if job["kind"] == names.FEDERATED_JOB else _workers(job)


def _federation(job: Job) -> Group:
    status = job.get("status") or {}
    training, last = status.get("training") or {}, job["spec"]["rounds"]["max"]
    values = {
        "hospitals": status.get("phase", "Pending"),
        "parties": f"{training.get('parties', 0)} of {len(job['spec']['parties'])}",
        "round": f"{training.get('round', 0)} of {last}",
        "s/round": f"{training.get('roundSeconds', 0):.2f}",
        **_metrics(training),
    }
    parties = "  ".join(f"{p['name']} {p['state']}" for p in status.get("parties", []))
    bar = ProgressBar(total=last, completed=training.get("round", 0), width=60)
    return Group(_row(values), bar, Text(parties, style="dim", overflow="ellipsis"))


def _workers(job: Job) -> Group:
    status = job.get("status") or {}
    training, scaling = status.get("training") or {}, status.get("scaling") or {}
    values = {
        "mnist": status.get("phase", "Pending"),
        "workers": f"{status.get('replicas', 0)} of {scaling.get('desired', 0)}",
        "step": training.get("step", 0),
        "samples/s": f"{training.get('samplesPerSecond', 0):,.0f}",
        **_metrics(training),
    }
    epochs = job["spec"]["training"]["epochs"]
    bar = ProgressBar(total=epochs, completed=training.get("epoch", 0), width=60)
    return Group(
        _row(values), bar, Text(scaling.get("message", ""), style="dim", overflow="ellipsis")
    )


def _metrics(training: dict[str, Any]) -> dict[str, str]:
    loss = {"loss": f"{training['loss']:.4f}" if "loss" in training else "–"}
    return loss | {k: f"{v:.4f}" for k, v in (training.get("evaluation") or {}).items()}


def _row(values: dict[str, Any]) -> Table:
    table = Table.grid(padding=(0, 2))
    for name in values:
        table.add_column(name)
    table.add_row(*(f"[dim]{name}[/dim] {value}" for name, value in values.items()))
    return table
