"""How much of the difference between two speeds noise explains.

A speed is the mean over blocks of some seconds (the method of batch means), so that its standard
error is the blocks' deviation ÷ √blocks although steps are autocorrelated.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

from trainyard.api.status import SampleTimes

CONFIDENCE: Final = 0.99
"""Of the two-sided intervals.

A size in force is compared every few seconds, some 200 times a day independently, since blocks fade
over minutes. Half a percent a side then leaves one false alarm a day for a gain that is exactly at
the limit, and practically none for one away from it.
"""
ASSUMED_ERROR: Final = 0.03
"""Relative standard error assumed of a speed whose spread was not measured.

It is a minute's on two shared cores: windows of a second vary by a tenth, and of sixty some ten are
independent.
"""
MIN_BLOCKS: Final = 2
"""Blocks that a deviation needs."""
_FEW_BLOCKS: Final = 5
"""Below these the assumption counts beside the deviation, which is itself hardly known: Student's
quantile for two blocks is 64, so that no loss at all would ever be clear."""
_MAX_BLOCKS: Final = 10**6
"""Limit of blocks that a status may claim: its square root must exist."""
MAX_ERROR: Final = 1.0
"""A relative error above this says that nothing is known, and its exponential must exist."""
_QUANTILE: Final = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A speed as far as it is known."""

    speed: float
    """Samples per second."""
    error: float
    """Relative standard error."""
    degrees: float = math.inf
    """Degrees of freedom behind the error."""


def estimate(times: SampleTimes) -> Estimate:
    """The speed behind the blocks; of few blocks the error is at least the assumed one."""
    blocks = min(times.blocks, _MAX_BLOCKS)
    error = min(times.deviation / math.sqrt(blocks) / times.mean, MAX_ERROR)
    if blocks < _FEW_BLOCKS:
        error = max(error, ASSUMED_ERROR)
    return Estimate(speed=1 / times.mean, error=error, degrees=max(blocks, _FEW_BLOCKS) - 1)


def pooled(parts: Iterable[SampleTimes]) -> SampleTimes:
    """The times over all blocks of the parts, at least one.

    Counts, means and sums of squared deviations are merged pairwise (Chan, Golub and LeVeque,
    *Updating formulae and a pairwise algorithm for computing sample variances*, 1979).
    """
    first, *others = parts
    blocks, mean = first.blocks, first.mean
    squares = first.deviation**2 * (first.blocks - 1)
    for part in others:
        total = blocks + part.blocks
        difference = part.mean - mean
        squares += part.deviation**2 * (part.blocks - 1)
        squares += difference**2 * blocks * part.blocks / total
        mean += difference * part.blocks / total
        blocks = total
    return SampleTimes(blocks=blocks, mean=mean, deviation=math.sqrt(squares / (blocks - 1)))


def speedup_interval(before: Estimate, after: Estimate) -> tuple[float, float]:
    """Where `after` ÷ `before` lies with `CONFIDENCE`: the lower and the upper end.

    The delta method on the logarithm of the ratio: its variance is the sum of the squared relative
    errors. The quantile is Student's with Welch and Satterthwaite's degrees of freedom (Welch,
    Biometrika 34, 1947).
    """
    ratio = after.speed / before.speed
    variance = before.error**2 + after.error**2
    if variance == 0:
        return ratio, ratio
    share = before.error**2 / variance
    inverse_degrees = share**2 / before.degrees + (1 - share) ** 2 / after.degrees
    factor = math.exp(_student(inverse_degrees) * math.sqrt(variance))
    return ratio / factor, ratio * factor


def _student(inverse_degrees: float) -> float:
    """Student's quantile for 1 ÷ degrees of freedom by its expansion (Abramowitz, Stegun 26.7.5).

    From four degrees on, the fewest that an estimate has, it is 1 % too small at most.
    """
    z = _QUANTILE
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first * inverse_degrees + second * inverse_degrees**2 + third * inverse_degrees**3
