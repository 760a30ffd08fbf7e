"""What a person sees while something takes minutes: a bar with an estimate, or lines in a log."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as Remaining

_LINES = 10
"""How many lines a log that is no terminal gets for one bar."""

console = Console(file=sys.stderr, highlight=False)


def say(sentence: str) -> None:
    """Tell the person at the prompt one thing; standard output stays for results."""
    console.print(sentence, markup=False, emoji=False, soft_wrap=True)


class Bar(Protocol):
    """Something that shows how far a task is."""

    def advance(self, done: float, label: str = "") -> None:
        """Show that this much of the task is done."""


@contextmanager
def bar(title: str, total: float) -> Iterator[Bar]:
    """Show a task: as a moving bar on a terminal, as some lines elsewhere."""
    if not console.is_terminal:
        yield _Lines(title, total)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    label = TextColumn("{task.fields[label]}", style="dim")
    with Progress(*columns, TimeElapsedColumn(), Remaining(), label, console=console) as progress:
        yield _Moving(progress, title, total)


class _Moving:
    """A bar with the elapsed and the estimated remaining time."""

    def __init__(self, progress: Progress, title: str, total: float) -> None:
        self._progress = progress
        self._task = progress.add_task(title, total=total, label="")

    def advance(self, done: float, label: str = "") -> None:
        self._progress.update(self._task, completed=done, label=label[-40:])


class _Lines:
    """A line for every tenth of the task."""

    def __init__(self, title: str, total: float) -> None:
        self._title, self._total, self._shown = title, total, -1

    def advance(self, done: float, label: str = "") -> None:
        part = int(_LINES * done / self._total)
        if part > self._shown:
            self._shown = part
            say(f"{self._title}: {100 * part // _LINES} % {label}".rstrip())
