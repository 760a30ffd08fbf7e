"""Whether an update's tensors are numbers that may be averaged, told block by block.

It stands apart, and is pure, so that an update is judged while it streams in and is never held
whole: each block is compared with the same block of the model that the party started from.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from trainyard_trainer.contract.federated import RefusalReason
from trainyard_trainer.federated.protocol.layout import FLOATS, Bytes, Layout, Segment, widen
from trainyard_trainer.federated.protocol.wire import UpdateRefused

BLOCK_BYTES: Final = 1 << 20
"""A multiple of every dtype's size, so that no number is cut in two."""


class UpdateValidator:
    """Judges the tensors of one update in order."""

    def __init__(self, layout: Layout, base: Bytes | None) -> None:
        """`base` holds the model that the update is measured against; None measures its length."""
        self._layout, self._base = layout, base
        self._offset = 0
        self._squares = 0.0

    @property
    def norm(self) -> float:
        """The Euclidean distance of its floats from the base, so far."""
        return math.sqrt(self._squares)

    def feed(self, block: Bytes) -> None:
        """Judge the next bytes, whole numbers all; raises Refused for NaN or an infinity."""
        start, stop = self._offset, self._offset + len(block)
        for segment in self._layout.segments:
            first, last = max(start, segment.start), min(stop, segment.stop)
            if segment.dtype in FLOATS and first < last:
                self._squares += self._measure(segment, first, block[first - start : last - start])
        self._offset = stop

    def _measure(self, segment: Segment, first: int, stored: Bytes) -> float:
        with np.errstate(all="ignore"):
            values = widen(stored, segment.dtype)
            if self._base is not None:
                base = widen(self._base[first : first + len(stored)], segment.dtype)
                moved = np.subtract(values, base, dtype=np.result_type(values, np.float32))
            else:
                moved = values.astype(np.result_type(values, np.float32), copy=False)
            squares = float(np.dot(moved, moved))
            if math.isfinite(squares):
                return squares  # Which says besides that every number is finite.
            finite = np.isfinite(values)
            if not finite.all():
                bad = first + int(finite.argmin()) * (len(stored) // len(values))
                name = self._layout.at(bad).name[:100]
                raise UpdateRefused(RefusalReason.NOT_FINITE, f"{name} holds NaN or an infinity")
            return float(np.square(moved.astype(np.float64)).sum())
