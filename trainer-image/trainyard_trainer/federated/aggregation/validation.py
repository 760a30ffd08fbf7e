"""Validates an update's tensors block by block, while they stream in.

Each block is compared with the same block of the model that the party started from, so that no
update is ever held as a whole.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from trainyard_trainer.contract.federated import RefusalReason
from trainyard_trainer.federated.protocol.layout import FLOATS, Bytes, Layout, Segment, to_numbers
from trainyard_trainer.federated.protocol.wire import UpdateRefused

BLOCK_BYTES: Final = 1 << 20
"""A multiple of every dtype's size, so that no number is split."""


class UpdateValidator:
    """Validates the tensors of one update, in order."""

    def __init__(self, layout: Layout, base: Bytes | None) -> None:
        """`base` is the model to measure the distance from; None measures the norm itself."""
        self._layout, self._base = layout, base
        self._offset = 0
        self._squared_norm = 0.0

    @property
    def norm(self) -> float:
        """The Euclidean distance of the floats from the base, so far."""
        return math.sqrt(self._squared_norm)

    def feed(self, block: Bytes) -> None:
        """Check the next bytes, which are whole numbers; raises UpdateRefused for NaN or inf."""
        start, stop = self._offset, self._offset + len(block)
        for segment in self._layout.segments:
            first, last = max(start, segment.start), min(stop, segment.stop)
            if segment.dtype in FLOATS and first < last:
                piece = block[first - start : last - start]
                self._squared_norm += self._squared_distance(segment, first, piece)
        self._offset = stop

    def _squared_distance(self, segment: Segment, first: int, stored: Bytes) -> float:
        with np.errstate(all="ignore"):
            values = to_numbers(stored, segment.dtype)
            if self._base is not None:
                base = to_numbers(self._base[first : first + len(stored)], segment.dtype)
                difference = np.subtract(values, base, dtype=np.result_type(values, np.float32))
            else:
                difference = values.astype(np.result_type(values, np.float32), copy=False)
            squares = float(np.dot(difference, difference))
            if math.isfinite(squares):
                return squares  # Which also implies that every number is finite.
            finite = np.isfinite(values)
            if not finite.all():
                bad = first + int(finite.argmin()) * (len(stored) // len(values))
                name = self._layout.entry_at(bad).name[:100]
                raise UpdateRefused(RefusalReason.NOT_FINITE, f"{name} holds NaN or an infinity")
            return float(np.square(difference.astype(np.float64)).sum())
