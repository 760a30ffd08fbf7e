"""The demo's last words: what trained where, what growth brought, and what a lost party cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import Any

from rich.table import Table

from tests.demo.incident import VICTIM, Incident
from tests.demo.watch import describe

Row = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """A job that is complete, and what it is compared with."""

    job: dict[str, Any]
    nodes: set[str]
    result: dict[str, Any]
    """The fetched result.json."""
    reference: dict[str, Any]


def summary(grown: Ending, federated: Ending, incident: Incident) -> Table:
    """The summary as a table of two columns."""
    table = Table(title="What happened", show_header=False, title_justify="left")
    table.add_column(style="dim")
    table.add_column()
    for name, text in _grown(grown):
        table.add_row(name, text)
    table.add_section()
    for name, text in _federated(federated, incident):
        table.add_row(name, text)
    return table


def _grown(ending: Ending) -> Iterator[Row]:
    spec, status, result = ending.job["spec"], ending.job["status"], ending.result
    yield "job", _title(ending)
    yield (
        "work",
        f"{result['steps']:,} steps, {result['samples']:,} samples, "
        f"global batch {spec['training']['batchSize']:,}",
    )
    for change in status["scaling"]["history"]:
        if change["from"]:
            yield "growth" if change["to"] > change["from"] else "given back", describe(change)
    yield from _speeds(status["scaling"]["profile"])
    yield "accuracy", _accuracy(ending, "in one process, with the same seed and batch")
    yield "samples", _audit(result)
    yield "wall time", _wall_time(status)


def _federated(ending: Ending, incident: Incident) -> Iterator[Row]:
    job, result = ending.job, ending.result
    rounds = [past for past in result["history"] if past["round"]]
    seconds, parties = [past["seconds"] for past in rounds], len(job["spec"]["parties"])
    without = sum(past["parties"] < parties for past in rounds)
    yield "job", _title(ending)
    yield (
        "rounds",
        f"{result['rounds']} of {parties} hospitals, "
        f"{result['rounds_lost']} lost, {median(seconds):.2f} s in the median",
    )
    yield "party lost", _lost(incident)
    yield (
        "no stall",
        f"the longest round took {max(seconds):.1f} s, of a deadline of "
        f"{job['spec']['rounds']['deadline']}; {without} rounds were folded without all hospitals",
    )
    counts = ", ".join(f"{name} {count}" for name, count in sorted(result["contributions"].items()))
    yield "contributed to", f"{counts} rounds"
    yield "accuracy", _accuracy(ending, "on the pooled data, which no federation has")
    yield "wall time", _wall_time(job["status"])


def _lost(incident: Incident) -> str:
    if not incident.killed:
        return "none: the rounds were over before one was killed"
    killed = f"{VICTIM}'s pod was killed after round {incident.round}"
    if incident.away_seconds is None:
        return f"{killed}, and the rounds were over before its successor trained"
    return f"{killed}; its successor was in the model again {incident.away_seconds:.0f} s later"


def _title(ending: Ending) -> str:
    name, task = ending.job["metadata"]["name"], ending.job["spec"]["task"]["entrypoint"]
    return f"{ending.job['kind']} {name}: {task} on {', '.join(sorted(ending.nodes))}"


def _wall_time(status: dict[str, Any]) -> str:
    began, ended = (
        datetime.fromisoformat(status[name]) for name in ("startTime", "completionTime")
    )
    return f"{(ended - began).total_seconds():.0f} s from admission to the stored model"


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


def _accuracy(ending: Ending, where: str) -> str:
    ours, theirs = (r["metrics"]["eval/accuracy"] for r in (ending.result, ending.reference))
    return f"{ours:.4f}; {where}: {theirs:.4f}"


def _audit(result: dict[str, Any]) -> str:
    audited, wrong = result["epochs_audited"], result["samples_wrong"]
    return f"{audited} epochs audited, {wrong} samples seen twice or never"
