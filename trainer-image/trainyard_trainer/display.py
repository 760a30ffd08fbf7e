"""A training shown to a person: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

LINE_SECONDS: Final = 2.0
"""Without a terminal, a line so often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingState:
    """What is shown."""

    epoch: float
    step: int
    loss: float | None
    metrics: dict[str, float | None]

    @classmethod
    def of(cls, source: Any) -> TrainingState:
        """The state of a Replica, or of a worker's progress report."""
        epoch = source.cursor.epochs if hasattr(source, "cursor") else source.epoch
        return cls(epoch=epoch, step=source.step, loss=source.loss, metrics=source.metrics)

    def __str__(self) -> str:
        """One line without the epoch."""
        parts = [f"step {self.step}"]
        if self.loss is not None:
            parts.append(f"loss {self.loss:.4f}")
        parts += [f"{k.removeprefix('eval/')} {v:.4f}" for k, v in self.metrics.items() if v]
        return "  ".join(parts)


class Display(Protocol):
    """Shows a state."""

    def show(self, state: TrainingState) -> None:
        """Show the newest state."""


class Bar:
    """A progress bar over the epochs."""

    def __init__(self, progress: Progress, epochs: int) -> None:
        """Add the bar to a running `progress`."""
        self._progress = progress
        self._bar = progress.add_task("", total=epochs)

    def show(self, state: TrainingState) -> None:
        """Move the bar."""
        self._progress.update(self._bar, completed=state.epoch, description=str(state))


class Lines:
    """A line now and then."""

    def __init__(self, console: Console, epochs: int) -> None:
        """Print to `console`."""
        self._console, self._epochs = console, epochs
        self._printed, self._step = 0.0, 0

    def show(self, state: TrainingState) -> None:
        """Print a line when the last one is old enough and there is progress to show."""
        now = time.monotonic()
        if state.step > self._step and now - self._printed >= LINE_SECONDS:
            self._printed, self._step = now, state.step
            self._console.print(f"epoch {state.epoch:.2f}/{self._epochs}  {state}")


@contextmanager
def showing(epochs: int) -> Iterator[Display]:
    """A display fit for where the output goes."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield Lines(console, epochs)
        return
    columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.description}"))
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        yield Bar(progress, epochs)


def summary(result: dict[str, Any]) -> str:
    """The result of a training in a few lines."""
    metrics = [
        f"{name} = not finite" if value is None else f"{name} = {value:.4f}"
        for name, value in sorted(result["metrics"].items())
    ]
    counts = f"{result['steps']} steps, {result['samples']} samples, {result['epochs']:g} epochs"
    audit = f"{result['epochs_audited']} epochs audited, {result['samples_wrong']} samples wrong"
    return "\n".join([*metrics, f"{counts} in {result['seconds']:.1f} s; {audit}"])
