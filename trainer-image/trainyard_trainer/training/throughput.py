"""A worker's measurements of its own steps: throughput by configuration, and stalls.

Pure: times are arguments. The scheduler's decisions rest on these figures.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Final

WINDOW_SECONDS: Final = 1.0
"""Steps are averaged over windows of this length before anything is left out."""
WINDOWS: Final = 60
"""How many of a configuration's newest windows stand behind its figures."""
TRIM: Final = 0.1
"""The share of windows left out at either end of a configuration's mean."""
BLOCK_WINDOWS: Final = 5
"""Windows of a block: neighbours share a load, so blocks of some seconds depend less on each other
than windows do, and two blocks are measured soon after a change."""
MAX_BLOCKS: Final = 60
"""Blocks that count in full, about five minutes; from then on older ones fade."""
NORMAL_STEPS: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Configuration:
    """What throughput depends on, as the scheduler sees it."""

    nodes: int
    workers: int
    local_batch: int
    """The largest share of the global batch, in samples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Sums over the steps of about one second."""

    steps: int = 0
    samples: int = 0
    seconds: float = 0.0
    compute: float = 0.0
    communication: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """A configuration's means."""

    steps: int
    samples_per_second: float
    compute_seconds: float
    """Of one step."""
    communication_seconds: float
    """Of one step."""
    blocks: int = 0
    """Blocks behind `sample_seconds`."""
    sample_seconds: float = 0.0
    """Mean seconds per sample over the blocks; 0 without any."""
    sample_seconds_deviation: float = 0.0
    """Standard deviation of one block's seconds per sample; 0 below two blocks."""


@dataclass(slots=True)
class Spread:
    """Mean and spread of seconds per sample over blocks of windows, the oldest fading.

    The method of batch means (Law, *Simulation Modeling and Analysis*, 5th ed., 9.5.3): steps are
    autocorrelated, so that the spread of their mean is taken from the means of blocks. A block
    counts by the median of its windows, which a rare stall does not move. The recurrence is
    Welford's (Technometrics 4, 1962) with a count that stops at `MAX_BLOCKS`.
    """

    blocks: int = 0
    mean: float = 0.0
    _squares: float = 0.0
    """Sum of squared deviations from the mean."""
    _windows: list[float] = field(default_factory=list)
    """Seconds per sample of the windows of the block under way."""

    def add(self, window: Window) -> None:
        """Take a full window."""
        self._windows.append(window.seconds / window.samples)
        if len(self._windows) < BLOCK_WINDOWS:
            return
        value, self._windows = median(self._windows), []
        if self.blocks == MAX_BLOCKS:
            self._keep(MAX_BLOCKS - 1)
        self.blocks += 1
        difference = value - self.mean
        self.mean += difference / self.blocks
        self._squares += difference * (value - self.mean)

    def resume(self) -> None:
        """Begin another period in the configuration: what is older counts half from here on."""
        self._windows = []
        self._keep(self.blocks // 2)

    def _keep(self, blocks: int) -> None:
        """Give the blocks so far the weight of so many, with the same mean and variance."""
        deviation = self.deviation
        self.blocks = blocks
        self._squares = deviation**2 * max(0, blocks - 1)

    @property
    def deviation(self) -> float:
        """Standard deviation of one block; 0 below two blocks."""
        return math.sqrt(self._squares / (self.blocks - 1)) if self.blocks > 1 else 0.0


def trimmed(values: Sequence[float]) -> float:
    """The mean without the largest and smallest tenth (rounded down); NaN of nothing.

    Windows are trimmed, not steps: the pauses of a throttled CPU come back in every window and
    count, while a rare stall of the machine falls into one window and does not.
    """
    if not values:
        return float("nan")
    cut = int(len(values) * TRIM)
    return fmean(sorted(values)[cut : len(values) - cut])


@dataclass(slots=True)
class Profile:
    """Throughput by configuration, from windows of steps."""

    _windows: dict[Configuration, deque[Window]] = field(default_factory=dict)
    _steps: dict[Configuration, int] = field(default_factory=dict)
    _spreads: dict[Configuration, Spread] = field(default_factory=dict)
    _latest: Configuration | None = None

    def add(self, configuration: Configuration, window: Window) -> None:
        """Take a full window of steps in one configuration."""
        kept = self._windows.setdefault(configuration, deque(maxlen=WINDOWS))
        kept.append(window)
        self._steps[configuration] = self._steps.get(configuration, 0) + window.steps
        spread = self._spreads.setdefault(configuration, Spread())
        if configuration != self._latest:
            spread.resume()
            self._latest = configuration
        spread.add(window)

    def figures(self) -> dict[Configuration, Figures]:
        """All configurations' means."""
        return {key: self._figure(key) for key in self._windows}

    def _figure(self, key: Configuration) -> Figures:
        windows, spread = self._windows[key], self._spreads[key]
        return Figures(
            steps=self._steps[key],
            samples_per_second=trimmed([w.samples / w.seconds for w in windows]),
            compute_seconds=trimmed([w.compute / w.steps for w in windows]),
            communication_seconds=trimmed([w.communication / w.steps for w in windows]),
            blocks=spread.blocks,
            sample_seconds=spread.mean,
            sample_seconds_deviation=spread.deviation,
        )


@dataclass(slots=True)
class Meter:
    """Measures steps as they are committed; rescales and evaluations are left out."""

    profile: Profile = field(default_factory=Profile)
    last_commit: float | None = None
    """When the last iteration was committed, on the caller's steady clock."""
    _steps: deque[float] = field(default_factory=lambda: deque(maxlen=NORMAL_STEPS))
    _window: Window = Window()
    _configuration: Configuration | None = None

    def committed(
        self,
        now: float,
        configuration: Configuration,
        *,
        samples: int,
        compute: float,
        communication: float,
    ) -> None:
        """Take a step committed at `now`; the very first only starts the clock."""
        if configuration != self._configuration:
            self._window, self._configuration = Window(), configuration
        if self.last_commit is None:
            self.last_commit = now
            return
        seconds = now - self.last_commit
        self.last_commit = now
        self._steps.append(seconds)
        old = self._window
        self._window = Window(
            steps=old.steps + 1,
            samples=old.samples + samples,
            seconds=old.seconds + seconds,
            compute=old.compute + compute,
            communication=old.communication + communication,
        )
        if self._window.seconds >= WINDOW_SECONDS:
            self.profile.add(configuration, self._window)
            self._window = Window()

    def skip(self, now: float) -> None:
        """Leave out the time until `now`: an evaluation, or the first iteration after a rescale."""
        self.last_commit = now

    def normal_step(self) -> float:
        """The median of the latest steps in seconds; 0 before any."""
        return median(self._steps) if self._steps else 0.0
