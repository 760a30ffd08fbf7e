"""The demo's summary: where the jobs ran, their scaling, the lost party and their accuracy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import Any

from rich.table import Table

from tests.demo.fault import TARGET_PARTY, PartyKill
from tests.demo.progress import describe

Row = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletedJob:
    """A complete job with its result and its baseline."""

    job: dict[str, Any]
    nodes: set[str]
    result: dict[str, Any]
    """The fetched result.json."""
    baseline: dict[str, Any]
    """The result.json of the same training in one process."""


def summary(distributed: CompletedJob, federated: CompletedJob, kill: PartyKill) -> Table:
    """The summary as a table of two columns."""
    table = Table(title="Summary", show_header=False, title_justify="left")
    table.add_column(style="dim")
    table.add_column()
    for name, text in _distributed_rows(distributed):
        table.add_row(name, text)
    table.add_section()
    for name, text in _federated_rows(federated, kill):
        table.add_row(name, text)
    return table


def _distributed_rows(completed: CompletedJob) -> Iterator[Row]:
    spec, status, result = completed.job["spec"], completed.job["status"], completed.result
    yield "job", _title(completed)
    yield (
        "work",
        f"{result['steps']:,} steps, {result['samples']:,} samples, "
        f"global batch {spec['training']['batchSize']:,}",
    )
    for change in status["scaling"]["history"]:
        if change["from"]:
            yield "grown" if change["to"] > change["from"] else "shrunk", describe(change)
    yield from _throughput(status["scaling"]["profile"])
    yield "accuracy", _accuracy(completed, "in one process, with the same seed and batch")
    yield "samples", _audit(result)
    yield "wall time", _wall_time(status)


def _federated_rows(completed: CompletedJob, kill: PartyKill) -> Iterator[Row]:
    job, result = completed.job, completed.result
    rounds = [entry for entry in result["history"] if entry["round"]]
    seconds, parties = [entry["seconds"] for entry in rounds], len(job["spec"]["parties"])
    incomplete = sum(entry["parties"] < parties for entry in rounds)
    yield "job", _title(completed)
    yield (
        "rounds",
        f"{result['rounds']} of {parties} hospitals, "
        f"{result['rounds_lost']} lost, {median(seconds):.2f} s in the median",
    )
    yield "party lost", _lost_party(kill)
    yield (
        "no stall",
        f"the longest round took {max(seconds):.1f} s, of a deadline of "
        f"{job['spec']['rounds']['deadline']}; {incomplete} rounds were aggregated without all "
        "hospitals",
    )
    counts = ", ".join(f"{name} {count}" for name, count in sorted(result["contributions"].items()))
    yield "contributed to", f"{counts} rounds"
    yield "accuracy", _accuracy(completed, "on the pooled data in one process")
    yield "wall time", _wall_time(job["status"])


def _lost_party(kill: PartyKill) -> str:
    if not kill.pod:
        return "none: the rounds were over before its pod could be killed"
    killed = f"{TARGET_PARTY}'s pod was killed after round {kill.round}"
    if kill.recovery_seconds is None:
        return f"{killed}, and the rounds were over before its replacement contributed"
    return f"{killed}; its replacement contributed again {kill.recovery_seconds:.0f} s later"


def _title(completed: CompletedJob) -> str:
    name, task = completed.job["metadata"]["name"], completed.job["spec"]["task"]["entrypoint"]
    return f"{completed.job['kind']} {name}: {task} on {', '.join(sorted(completed.nodes))}"


def _wall_time(status: dict[str, Any]) -> str:
    started, completed = (
        datetime.fromisoformat(status[name]) for name in ("startTime", "completionTime")
    )
    return f"{(completed - started).total_seconds():.0f} s from admission to the stored model"


def _throughput(profile: list[dict[str, Any]]) -> Iterator[Row]:
    by_workers: dict[int, float] = {}
    for entry in profile:
        by_workers[entry["workers"]] = entry["samplesPerSecond"]
    one_worker = by_workers.get(1)
    values = [
        f"{workers}: {speed:,.0f}"
        + (f" ({speed / one_worker:.2f}×)" if one_worker and workers > 1 else "")
        for workers, speed in sorted(by_workers.items())
    ]
    yield "samples/s by workers", ", ".join(values)


def _accuracy(completed: CompletedJob, setting: str) -> str:
    accuracy, baseline = (
        r["metrics"]["eval/accuracy"] for r in (completed.result, completed.baseline)
    )
    return f"{accuracy:.4f}; {setting}: {baseline:.4f}"


def _audit(result: dict[str, Any]) -> str:
    audited, wrong = result["epochs_audited"], result["samples_wrong"]
    return f"{audited} epochs audited, {wrong} samples seen twice or never"
