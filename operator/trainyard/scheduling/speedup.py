"""Speed-up curves: what a job's own measurements say of sizes that it does not have."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from trainyard.api.status import Measurement, SampleTimes
from trainyard.scheduling.spread import MAX_ERROR, MIN_BLOCKS, Estimate, estimate, pooled

_PLAUSIBLE_SPEED: Final = (1e-6, 1e12)
"""Samples per second that a job may report; anything else is a broken metric and is ignored."""
_MAX_STEPS: Final = 10**9
"""Weight limit of one measurement: a broken counter must not overflow the mean."""
_MAX_DEVIATION: Final = 1 / _PLAUSIBLE_SPEED[0]
"""Seconds per sample; a deviation above the longest possible mean is broken."""


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
    spreads: Mapping[int, SampleTimes] = field(default_factory=dict)
    """What is behind a point, by workers, where its spread was measured."""

    def sizes(self) -> tuple[int, ...]:
        """The measured sizes, ascending."""
        return tuple(workers for workers, _ in self.points)

    def until(self, workers: int) -> Curve:
        """The same without sizes above `workers`."""
        return replace(self, points=tuple(p for p in self.points if p[0] <= workers))

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

    def estimate(self, workers: int, *, unmeasured: float) -> Estimate:
        """The speed of a measured size or one beyond; `unmeasured` is an error without a spread.

        Beyond, the seconds per sample are a weighted sum of the last two sizes', and so is their
        error: the delta method, with the fewer of the two degrees of freedom.
        """
        if workers in self.spreads:
            return replace(estimate(self.spreads[workers]), speed=self.speed(workers))
        if workers in self.sizes():
            return Estimate(speed=self.speed(workers), error=unmeasured)
        sizes = self.sizes()[-2:]
        ends = [self.estimate(size, unmeasured=unmeasured) for size in sizes]
        speed = self.speed(workers)
        if len(ends) == 1:
            return replace(ends[0], speed=speed)
        weight = (1 / workers - 1 / sizes[0]) / (1 / sizes[1] - 1 / sizes[0])
        shares = (abs(1 - weight) / ends[0].speed, weight / ends[1].speed)
        seconds = math.hypot(*(share * end.error for share, end in zip(shares, ends, strict=True)))
        degrees = min(end.degrees for end in ends)
        return Estimate(speed=speed, error=min(seconds * speed, MAX_ERROR), degrees=degrees)

    def paying(self, min_gain: float) -> tuple[int, ...]:
        """Of the measured sizes the smallest, and each that paid over the one kept before it."""
        kept = [self.points[0]]
        for point in self.points[1:]:
            if point[1] / kept[-1][1] >= min_gain:
                kept.append(point)
        return tuple(workers for workers, _ in kept)


def measured_curve(profile: Iterable[Measurement], *, sizes: range, min_steps: int) -> Curve:
    """The curve through the sizes within `sizes` that are measured; it may have no points.

    Where the spread is known the mean over the blocks counts, which goes back further than the
    newest throughput: a load beside the job then shows as spread before it shows as a loss.
    """
    entries = [entry for entry in profile if entry.workers in sizes]
    spreads = _spread_by_size(entries, min_steps=min_steps)
    points = (
        (workers, 1 / spreads[workers].mean if workers in spreads else speed)
        for workers, speed in throughput_by_size(entries, min_steps=min_steps)
    )
    return Curve(points=tuple(points), spreads=spreads)


def throughput_by_size(
    profile: Iterable[Measurement], *, min_steps: int
) -> tuple[tuple[int, float], ...]:
    """Samples per second by number of workers, ascending: means weighted by steps.

    Configurations of the same size (nodes, local batch) are averaged, as the size is what is
    decided here. Impossible values, and sizes with fewer than `min_steps` steps, are left out.
    """
    return tuple(
        (workers, _weighted_mean(entries))
        for workers, entries in sorted(_by_size(profile, min_steps).items())
    )


def _weighted_mean(entries: Iterable[Measurement]) -> float:
    weighted = [(min(entry.steps, _MAX_STEPS), entry.samples_per_second) for entry in entries]
    return sum(steps * speed for steps, speed in weighted) / sum(steps for steps, _ in weighted)


def _spread_by_size(profile: Iterable[Measurement], *, min_steps: int) -> dict[int, SampleTimes]:
    """Seconds per sample by number of workers, where every configuration of the size has them."""
    spreads = {}
    for workers, entries in _by_size(profile, min_steps).items():
        times = [entry.sample_times for entry in entries if entry.sample_times is not None]
        if len(times) == len(entries) and all(map(_is_possible, times)):
            spreads[workers] = pooled(times)
    return spreads


def _by_size(profile: Iterable[Measurement], min_steps: int) -> dict[int, list[Measurement]]:
    """The plausible measurements by number of workers, of sizes with `min_steps` steps."""
    by_size: dict[int, list[Measurement]] = {}
    for entry in profile:
        if entry.workers > 0 and entry.steps > 0 and _is_plausible(entry.samples_per_second):
            by_size.setdefault(entry.workers, []).append(entry)
    return {
        workers: entries
        for workers, entries in by_size.items()
        if sum(min(entry.steps, _MAX_STEPS) for entry in entries) >= min_steps
    }


def _is_plausible(speed: float) -> bool:
    return math.isfinite(speed) and _PLAUSIBLE_SPEED[0] <= speed <= _PLAUSIBLE_SPEED[1]


def _is_possible(times: SampleTimes) -> bool:
    """Whether the figures are a spread; anything else is taken for unmeasured."""
    return (
        MIN_BLOCKS <= times.blocks <= _MAX_STEPS
        and times.mean > 0
        and _is_plausible(1 / times.mean)
        and 0 <= times.deviation <= _MAX_DEVIATION
    )


def _seconds(one: tuple[int, float], other: tuple[int, float], workers: int) -> float:
    """Seconds per sample at `workers`, on the line a + b/n through two measured sizes."""
    x, y = 1 / one[0], 1 / one[1]
    slope = (1 / other[1] - y) / (1 / other[0] - x)
    return y + slope * (1 / workers - x)
