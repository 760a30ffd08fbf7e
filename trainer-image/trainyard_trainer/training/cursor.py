"""Which samples a step trains on: a replicated cursor over a seeded permutation, and its audit.

The batch of a step is a pure function of the cursor and the view, so workers need no communication
to agree on it, and every sample is seen exactly once an epoch through any history of joins, leaves
and crashes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
Positions = NDArray[np.int64]

ROUNDS: Final = 6
"""Feistel rounds; four already look random (Luby and Rackoff 1988), two more cost little."""
HALF_BITS: Final = 32
CHUNK: Final = 1 << 18
"""Sample ids that are mixed at a time, 2 MiB."""


def mix(words: Words) -> Words:
    """Mix 64-bit words, each input bit into all output bits (splitmix64 finalizer, Steele 2014).

    Takes and returns uint64 of any shape; arithmetic is modulo 2**64.
    """
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _feistel(words: Words, half_bits: int, keys: Words) -> Words:
    half = np.uint64(half_bits)
    mask = np.uint64((1 << half_bits) - 1)
    left, right = words >> half, words & mask
    for key in keys:
        left, right = right, left ^ (mix(right ^ key) & mask)
    return (left << half) | right


def permute(positions: Positions, size: int, seed: int, epoch: int) -> Positions:
    """Sample ids (int64, in [0, size)) at `positions` of the permutation of (seed, epoch).

    A Feistel network over the next even power of two, walked until it falls inside `size` (cycle
    walking, Black and Rogaway 2002): a permutation with no table, so a data set of any length
    costs only the positions asked for.
    """
    half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
    start = np.array([seed & (2**64 - 1), epoch], dtype=np.uint64)
    base = mix(mix(start[:1]) ^ start[1:])
    keys = mix(base ^ np.arange(1, ROUNDS + 1, dtype=np.uint64))
    words = _feistel(positions.astype(np.uint64), half_bits, keys)
    while (outside := words >= np.uint64(size)).any():
        words[outside] = _feistel(words[outside], half_bits, keys)
    return words.astype(np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """The position of training in its data; equal on all workers after every step."""

    seed: int
    size: int
    """Samples in the data set."""
    epoch: int = 0
    position: int = 0
    """Positions of this epoch's permutation that have been handed out."""
    debt: tuple[int, ...] = ()
    """Positions handed out but not trained on; they come first in the next batch."""
    least: int = 1
    """Samples that a batch needs at the least; a smaller rest of an epoch joins the last batch."""

    def batch(self, batch_size: int) -> Positions:
        """The next step's positions (int64): debt first, then new ones, never past the epoch."""
        owed = np.array(self.debt[:batch_size], dtype=np.int64)
        end = self._end(batch_size - len(owed))
        return np.concatenate([owed, np.arange(self.position, end, dtype=np.int64)])

    def _end(self, count: int) -> int:
        """Where the next `count` new positions end."""
        end = self.position + count
        return end if end + self.least <= self.size else self.size

    def steps_per_epoch(self, batch_size: int) -> int:
        """How many steps an epoch without debt has."""
        return max(1, math.ceil((self.size - self.least + 1) / batch_size))

    def ids(self, positions: Positions) -> Positions:
        """The sample ids at `positions` of this epoch."""
        return permute(positions, self.size, self.seed, self.epoch)

    def advance(self, batch_size: int, lost: Iterable[int] = ()) -> Cursor:
        """The cursor after the step whose batch `batch(batch_size)` was.

        `lost` are the positions of that batch that no worker trained on. They become debt, and the
        epoch ends only when the debt is worked off. (A step that is retried whole loses none.)
        """
        owed = min(batch_size, len(self.debt))
        end = self._end(batch_size - owed)
        debt = (*self.debt[owed:], *(int(position) for position in lost))
        if end == self.size and not debt:
            return replace(self, epoch=self.epoch + 1, position=0, debt=())
        return replace(self, position=end, debt=debt)

    @property
    def epochs(self) -> float:
        """Passes over the data, with the fraction."""
        return self.epoch + (self.position - len(self.debt)) / self.size


def bounds(count: int, rank: int, size: int, least: int = 1) -> tuple[int, int]:
    """Where the share of `rank` of `size` workers in `count` positions begins and ends.

    Where `least` samples for each worker are not there, fewer workers have all of them.
    """
    sharing = max(1, min(size, count // least))
    base, extra = divmod(count, sharing)
    start = min(count, rank * base + min(rank, extra))
    return start, min(count, start + base + (rank < extra))


def share(positions: Positions, rank: int, size: int, least: int = 1) -> Positions:
    """The contiguous part of `positions` that `rank` of `size` workers trains on.

    Shares differ by at most one sample, the lower ranks have the larger ones, and the union over
    the ranks is `positions`; a short batch may leave the higher ranks nothing. No share is smaller
    than `least` unless the batch is.
    """
    start, end = bounds(len(positions), rank, size, least)
    return positions[start:end]


def fingerprint(ids: Positions) -> int:
    """A sum modulo 2**64 of mixed sample ids: equal for equal multisets, whatever their order."""
    return int(mix(ids.astype(np.uint64)).sum(dtype=np.uint64))


def fingerprint_of_all(size: int) -> int:
    """The fingerprint of a whole data set, in memory that does not depend on its `size`."""
    starts = range(0, size, CHUNK)
    parts = (np.arange(start, min(size, start + CHUNK), dtype=np.int64) for start in starts)
    return sum(fingerprint(part) for part in parts) % 2**64


def halves(word: int) -> tuple[int, int]:
    """A 64-bit word as its low and high 32 bits, whose sums a float64 holds exactly."""
    return word & (2**HALF_BITS - 1), word >> HALF_BITS


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """Counts the samples of every committed step and checks them at the end of each epoch."""

    fed: int = 0
    """Samples trained on in this epoch."""
    mixed: int = 0
    """Sum of their fingerprints, modulo 2**64."""
    epochs: int = 0
    """Epochs audited."""
    wrong: int = 0
    """Samples found missing or repeated at the ends of epochs; at least 1 for a bad epoch."""

    def add(self, fed: int, low: int, high: int) -> Audit:
        """The audit after a step that fed `fed` samples with these sums of fingerprint halves."""
        mixed = (self.mixed + low + (high << HALF_BITS)) % 2**64
        return replace(self, fed=self.fed + fed, mixed=mixed)

    def close(self, size: int, expected: int) -> Audit:
        """The audit after an epoch of `size` samples whose fingerprint should be `expected`."""
        wrong = max(abs(self.fed - size), int(self.mixed != expected))
        return Audit(epochs=self.epochs + 1, wrong=self.wrong + wrong)
