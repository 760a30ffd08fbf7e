"""The updates of a round folded into the next model, chunk by chunk.

It stands apart, and is pure, because the promises about results rest on it: updates are taken in
the order of the parties' names and every number is summed in float64 (int64 in a wider type), so
the result is the same bit for bit in whatever order they arrived. Memory does not grow with the
model or with the number of parties: about five float64 arrays of one chunk.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from trainyard_trainer.federated.aggregation.strategies import Floats, Strategy
from trainyard_trainer.federated.protocol.layout import (
    DTYPES,
    FLOATS,
    Bytes,
    Entry,
    Layout,
    Segment,
    narrow,
    widen,
)

CHUNK: Final = 1 << 17
"""Numbers folded at a time: a megabyte of float64 stays in a core's cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """A verified update."""

    party: str
    weight: float
    """Finite and above 0; how much it counts."""
    data: Bytes
    """As the model's layout has it."""


def slot_layout(layout: Layout, strategy: Strategy) -> Layout:
    """How what `strategy` keeps beside a model of `layout` lies: one tensor a slot and dtype."""
    return Layout.of(
        Entry(name=f"{slot}.{segment.key}", dtype=_slot_dtype(segment), shape=(_numbers(segment),))
        for slot in strategy.slots
        for segment in layout.segments
        if _has_slots(segment)
    )


def fill_slots(layout: Layout, strategy: Strategy, slots: Bytes) -> None:
    """Write the first values of what `strategy` keeps."""
    for entry, start in slot_layout(layout, strategy).places():
        first = float(getattr(strategy, strategy.slots[entry.name.partition(".")[0]]))
        slots[start : start + entry.size].view(DTYPES[entry.dtype]).fill(first)


def aggregate(
    layout: Layout,
    strategy: Strategy,
    updates: Sequence[Update],
    *,
    base: Bytes,
    slots: Bytes,
    out: Bytes,
) -> None:
    """Write the next model into `out`; `slots` change in place.

    `base` and `out` hold models of `layout`, `slots` what `slot_layout` says; all may be files
    mapped into memory.
    """
    ordered = sorted(updates, key=lambda update: update.party)
    # Divided by the largest, weights of any size neither overflow nor vanish together.
    largest = max(update.weight for update in ordered)
    parts = [(update.weight / largest, update.data) for update in ordered]
    kept = _arrays(layout, strategy, slots)
    for segment in layout.segments:
        step = CHUNK * DTYPES[segment.dtype].itemsize
        for start in range(segment.start, segment.stop, step):
            span = slice(start, min(start + step, segment.stop))
            first = (start - segment.start) // DTYPES[segment.dtype].itemsize
            beside = {slot: arrays.get(segment.key) for slot, arrays in kept.items()}
            out[span] = _chunk(strategy, segment, parts, base[span], span, first, beside)


def _chunk(
    strategy: Strategy,
    segment: Segment,
    parts: Sequence[tuple[float, Bytes]],
    old: Bytes,
    span: slice,
    first: int,
    beside: Mapping[str, Floats | None],
) -> Bytes:
    wide = np.longdouble if segment.dtype == "I64" else np.float64

    def pieces() -> Iterator[tuple[float, Any]]:
        for share, data in parts:
            yield share, widen(data[span], segment.dtype)

    count = len(old) // DTYPES[segment.dtype].itemsize
    mean = strategy.combine(pieces(), np.empty(count, dtype=wide))
    if not _has_slots(segment):
        return narrow(mean, segment.dtype)
    views = {k: v[first : first + count] for k, v in beside.items() if v is not None}
    slots = {slot: view.astype(np.float64) for slot, view in views.items()}
    new = strategy.step(widen(old, segment.dtype).astype(np.float64), mean, slots)
    for slot, view in views.items():
        view[:] = slots[slot]
    return narrow(new, segment.dtype)


def _arrays(layout: Layout, strategy: Strategy, slots: Bytes) -> dict[str, dict[str, Floats]]:
    """The slots as arrays, by slot and segment."""
    found: dict[str, dict[str, Floats]] = {slot: {} for slot in strategy.slots}
    for entry, start in slot_layout(layout, strategy).places():
        slot, _, key = entry.name.partition(".")
        found[slot][key] = slots[start : start + entry.size].view(DTYPES[entry.dtype])
    return found


def _has_slots(segment: Segment) -> bool:
    return segment.trained and segment.dtype in FLOATS


def _slot_dtype(segment: Segment) -> str:
    return "F64" if segment.dtype == "F64" else "F32"


def _numbers(segment: Segment) -> int:
    return (segment.stop - segment.start) // DTYPES[segment.dtype].itemsize
