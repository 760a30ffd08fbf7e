"""The CPU of the control plane per object, and variants measured in rotation."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from rich.console import Console
from rich.table import Table

from benchmarks.plane import Plane
from benchmarks.report import spread
from benchmarks.usage import difference

COMPONENTS = {
    "kube-apiserver": "apiserver",
    "etcd": "etcd",
    "kube-controller-manager": "controllers",
    "kube-scheduler": "scheduler",
}
"""What is measured, with the short name that it has in a table."""
Figures = dict[str, float]
"""What one run of a variant measured, by column."""
Summary = dict[str, dict[str, dict[str, float]]]
"""The spread over the runs, by variant and column."""

_SETTLE_SECONDS = 2.0
"""How long the controllers' work that follows a request still counts as the request's."""
_IDLE_SECONDS = 5.0
_QUIET_CORES = 0.1
"""A plane is quiet when it uses no more than so much above what it used idle."""
_QUIET_SECONDS = 90

console = Console(highlight=False, width=200)


@dataclass(frozen=True, slots=True)
class Meter:
    """Measures the plane's CPU; what it uses idle is subtracted."""

    plane: Plane
    idle_cores: Mapping[str, float]
    """CPU seconds a second of each component before anything was measured."""

    @classmethod
    async def calibrate(cls, plane: Plane) -> Self:
        """Measure the idle plane for some seconds."""
        used = await _used(plane, asyncio.sleep(_IDLE_SECONDS))
        return cls(plane, {name: seconds / _IDLE_SECONDS for name, seconds in used.items()})

    async def per_item(self, count: int, action: Awaitable[None]) -> Figures:
        """CPU of each component in milliseconds an item, until shortly after the action."""
        began = time.monotonic()
        used = await _used(self.plane, _and_settle(action))
        seconds = time.monotonic() - began
        return {
            label: round((used[name] - seconds * self.idle_cores[name]) / count * 1e3, 3)
            for name, label in COMPONENTS.items()
        }

    async def quiet(self) -> None:
        """Wait until the plane uses about as little as idle; after that time go on regardless."""
        deadline = time.monotonic() + _QUIET_SECONDS
        limit = sum(self.idle_cores.values()) + _QUIET_CORES
        while time.monotonic() < deadline:
            if sum((await _used(self.plane, asyncio.sleep(1))).values()) <= limit:
                return


async def _used(plane: Plane, action: Awaitable[None]) -> dict[str, float]:
    before = plane.cpu_seconds()
    await action
    return difference(plane.cpu_seconds(), before)


async def _and_settle(action: Awaitable[None]) -> None:
    await action
    await asyncio.sleep(_SETTLE_SECONDS)


def labeled(label: str, figures: Figures) -> Figures:
    """The same figures under columns that begin with the label."""
    return {f"{label}, {name}": value for name, value in figures.items()}


async def compare(
    title: str,
    variants: Sequence[str],
    measure: Callable[[str], Awaitable[Figures]],
    meter: Meter,
    repeat: int,
) -> Summary:
    """Measure each variant so many times, every time in another order, and print a table."""
    runs: dict[str, list[Figures]] = {variant: [] for variant in variants}
    for iteration in range(repeat):
        for variant in rotated(variants, iteration, repeat):
            await meter.quiet()
            runs[variant].append(await measure(variant))
            console.print(f"{title}, {variant}: {runs[variant][-1]}", style="dim")
    summary = {variant: _summary(figures) for variant, figures in runs.items()}
    console.print(as_table(title, summary))
    return summary


def rotated(variants: Sequence[str], iteration: int, repeat: int) -> list[str]:
    """The variants in the order of one iteration, which begins further on than the last did."""
    start = iteration * len(variants) // repeat
    return [*variants[start:], *variants[:start]]


def _summary(runs: Sequence[Figures]) -> dict[str, dict[str, float]]:
    return {column: spread([run[column] for run in runs]) for column in runs[0]}


def as_table(title: str, summary: Summary) -> Table:
    """One row a variant, with the median and the extremes of each column."""
    columns = list(next(iter(summary.values())))
    table = Table(title=title)
    table.add_column("variant", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    for variant, figures in summary.items():
        table.add_row(variant, *(_cell(figures[column]) for column in columns))
    return table


def _cell(figures: Mapping[str, float]) -> str:
    median, least, most = (f"{figures[key]:.2f}" for key in ("median", "min", "max"))
    return median if least == most else f"{median} ({least}–{most})"
