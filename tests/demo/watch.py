"""The live view of a job: one line of state, one of progress, and each decision as it is made."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from trainyard.cluster.client import KubeClient

INTERVAL_SECONDS = 1.0
Job = dict[str, Any]


async def watch(
    client: KubeClient, path: str, console: Console, is_done: Callable[[Job], bool], seconds: float
) -> Job:
    """Show the job until it is done; raises TimeoutError after `seconds`."""
    told: set[str] = set()
    async with asyncio.timeout(seconds):
        with Live(console=console, auto_refresh=False, transient=True) as live:
            while True:
                job = await client.get(path)
                for line in news(job, told):
                    live.console.print(line)
                live.update(view(job), refresh=True)
                if is_done(job):
                    return job
                await asyncio.sleep(INTERVAL_SECONDS)


def news(job: Job, told: set[str]) -> list[str]:
    """Decisions and conditions that have not been told yet, as lines."""
    status = job.get("status") or {}
    lines = []
    for change in (status.get("scaling") or {}).get("history", []):
        key = f"{change['decidedAt']} {change.get('measuredSpeedup') is not None}"
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
    status = job.get("status") or {}
    training, scaling = status.get("training") or {}, status.get("scaling") or {}
    table = Table.grid(padding=(0, 2))
    figures = {
        "phase": status.get("phase", "Pending"),
        "workers": f"{status.get('replicas', 0)} of {scaling.get('desired', 0)}",
        "step": training.get("step", 0),
        "samples/s": f"{training.get('samplesPerSecond', 0):,.0f}",
        "loss": f"{training['loss']:.4f}" if "loss" in training else "–",
        **{k: f"{v:.4f}" for k, v in (training.get("evaluation") or {}).items()},
    }
    for name in figures:
        table.add_column(name)
    table.add_row(*(f"[dim]{name}[/dim] {value}" for name, value in figures.items()))
    epochs = job["spec"]["training"]["epochs"]
    bar = ProgressBar(total=epochs, completed=training.get("epoch", 0), width=60)
    return Group(table, bar, Text(scaling.get("message", ""), style="dim", overflow="ellipsis"))
