"""Speed-up curves: what a job's own measurements say of sizes that it does not have."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from trainyard.api.status import Measurement

_PLAUSIBLE_SPEED: Final = (1e-6, 1e12)
"""Samples per second that a job may report; anything else is a broken metric and is ignored."""
_MAX_STEPS: Final = 10**9
"""Weight limit of one measurement: a broken counter must not overflow the mean."""


class SpeedUp(Protocol):
    """What a policy expects of other sizes: all that is needed to compare jobs."""

    def speedup(self, before: int, after: int) -> float:
        """Speed with `after` workers ÷ speed with `before` workers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Speed by number of workers: measured where possible, elsewhere by Amdahl's law.

    Amdahl: the time per sample is a + b/n, a part that more workers do not shorten and one that
    they share. Between two sizes the line runs through both; beyond the largest it goes on
    through the last two, but never better than linear. With one size only, linear is the bound.
    """

    points: tuple[tuple[int, float], ...]
    """(workers, samples per second), ascending, at least one."""

    def sizes(self) -> tuple[int, ...]:
        """The measured sizes, ascending."""
        return tuple(workers for workers, _ in self.points)

    def until(self, workers: int) -> Curve:
        """The same without sizes above `workers`."""
        return Curve(points=tuple(point for point in self.points if point[0] <= workers))

    def speed(self, workers: int) -> float:
        """Samples per second expected of so many workers."""
        first, last = self.points[0], self.points[-1]
        if workers <= first[0]:
            return first[1] * workers / first[0]
        below = max(point for point in self.points if point[0] <= workers)
        above = min((point for point in self.points if point[0] >= workers), default=None)
        if above is not None:
            return below[1] if below == above else 1 / _seconds(below, above, workers)
        linear = last[0] / (last[1] * workers)
        if len(self.points) == 1:
            return 1 / linear
        return 1 / max(linear, _seconds(self.points[-2], last, workers))

    def speedup(self, before: int, after: int) -> float:
        """Samples per second with `after` workers ÷ with `before` workers."""
        return self.speed(after) / self.speed(before)

    def paying(self, min_gain: float) -> tuple[int, ...]:
        """Of the measured sizes the smallest, and each that paid over the one kept before it."""
        kept = [self.points[0]]
        for point in self.points[1:]:
            if point[1] / kept[-1][1] >= min_gain:
                kept.append(point)
        return tuple(workers for workers, _ in kept)


def throughput_by_size(
    profile: Iterable[Measurement], *, min_steps: int
) -> tuple[tuple[int, float], ...]:
    """Samples per second by number of workers, ascending: means weighted by steps.

    Configurations of the same size (nodes, local batch) are averaged, as the size is what is
    decided here. Impossible values, and sizes with fewer than `min_steps` steps, are left out.
    """
    steps: dict[int, int] = {}
    sums: dict[int, float] = {}
    for entry in profile:
        if entry.workers > 0 and entry.steps > 0 and _is_plausible(entry.samples_per_second):
            weight = min(entry.steps, _MAX_STEPS)
            steps[entry.workers] = steps.get(entry.workers, 0) + weight
            total = weight * entry.samples_per_second
            sums[entry.workers] = sums.get(entry.workers, 0.0) + total
    return tuple(
        (size, sums[size] / steps[size]) for size in sorted(sums) if steps[size] >= min_steps
    )


def _is_plausible(speed: float) -> bool:
    return math.isfinite(speed) and _PLAUSIBLE_SPEED[0] <= speed <= _PLAUSIBLE_SPEED[1]


def _seconds(one: tuple[int, float], other: tuple[int, float], workers: int) -> float:
    """Seconds per sample at `workers`, on the line a + b/n through two measured sizes."""
    x, y = 1 / one[0], 1 / one[1]
    slope = (1 / other[1] - y) / (1 / other[0] - x)
    return y + slope * (1 / workers - x)
