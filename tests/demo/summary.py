"""The demo's last words: what trained where, how it grew and why, and what the growth brought."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from rich.table import Table

from tests.demo.watch import describe

CENTRALISED = 0.949
"""Accuracy of the same network on MNIST-5k trained with small batches on one machine."""

Row = tuple[str, str]


def summary(
    job: dict[str, Any], nodes: set[str], result: dict[str, Any], reference: dict[str, Any]
) -> Table:
    """The summary as a table of two columns."""
    table = Table(title="What happened", show_header=False, title_justify="left")
    table.add_column(style="dim")
    table.add_column()
    for name, text in rows(job, nodes, result, reference):
        table.add_row(name, text)
    return table


def rows(
    job: dict[str, Any], nodes: set[str], result: dict[str, Any], reference: dict[str, Any]
) -> Iterator[Row]:
    """Name and text of each line."""
    spec, status = job["spec"], job["status"]
    yield "job", f"{job['metadata']['name']}: {spec['task']['use']} on {', '.join(sorted(nodes))}"
    yield (
        "work",
        f"{result['steps']:,} steps, {result['samples']:,} samples, "
        f"global batch {spec['training']['batchSize']:,}",
    )
    for change in status["scaling"]["history"]:
        if change["from"]:
            yield "growth" if change["to"] > change["from"] else "given back", describe(change)
    yield from _speeds(status["scaling"]["profile"])
    yield from _accuracy(result, reference)
    yield "samples", _audit(result)
    began, ended = (
        datetime.fromisoformat(status[name]) for name in ("startTime", "completionTime")
    )
    yield "wall time", f"{(ended - began).total_seconds():.0f} s from admission to the stored model"


def _speeds(profile: list[dict[str, Any]]) -> Iterator[Row]:
    by_workers: dict[int, float] = {}
    for entry in profile:
        by_workers[entry["workers"]] = entry["samplesPerSecond"]
    alone = by_workers.get(1)
    figures = [
        f"{workers}: {speed:,.0f}" + (f" ({speed / alone:.2f}×)" if alone and workers > 1 else "")
        for workers, speed in sorted(by_workers.items())
    ]
    yield "samples/s by workers", ", ".join(figures)


def _accuracy(result: dict[str, Any], reference: dict[str, Any]) -> Iterator[Row]:
    ours = result["metrics"]["eval/accuracy"]
    theirs = reference["metrics"]["eval/accuracy"]
    yield (
        "accuracy",
        f"{ours:.4f}; one process, same seed and batch: {theirs:.4f}; small batches on one "
        f"machine: {CENTRALISED}",
    )


def _audit(result: dict[str, Any]) -> str:
    audited, wrong = result["epochs_audited"], result["samples_wrong"]
    return f"{audited} epochs audited, {wrong} samples seen twice or never"
