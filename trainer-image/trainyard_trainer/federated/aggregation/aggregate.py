"""Aggregates the updates of a round into the next model, chunk by chunk.

Updates are taken in the order of the parties' names and every number is summed in float64 (int64 in
a wider type), so the result is the same bit for bit in whatever order they arrived. Memory does not
grow with the model or the number of parties: about five float64 arrays of one chunk.
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
    to_bytes,
    to_numbers,
)

CHUNK_ELEMENTS: Final = 1 << 17
"""A megabyte of float64, which stays in a core's cache."""


class AggregateNotFinite(Exception):
    """The next model, or the strategy's state, would hold NaN or an infinity in this tensor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """A party's verified update."""

    party: str
    weight: float
    """Finite and above 0."""
    data: Bytes
    """A model of the global model's layout."""


def slot_layout(layout: Layout, strategy: Strategy) -> Layout:
    """The layout of a strategy's slots for a model of `layout`: one tensor per slot and dtype."""
    return Layout.of(
        Entry(
            name=f"{slot}.{segment.key}",
            dtype=_slot_dtype(segment),
            shape=(_element_count(segment),),
        )
        for slot in strategy.slots
        for segment in layout.segments
        if _has_slots(segment)
    )


def initialize_slots(layout: Layout, strategy: Strategy, slots: Bytes) -> None:
    """Write the initial values of a strategy's slots."""
    for entry, start in slot_layout(layout, strategy).offsets():
        initial = float(getattr(strategy, strategy.slots[entry.name.partition(".")[0]]))
        slots[start : start + entry.size].view(DTYPES[entry.dtype]).fill(initial)


def aggregate(
    layout: Layout,
    strategy: Strategy,
    updates: Sequence[Update],
    *,
    base: Bytes,
    slots: Bytes,
    out: Bytes,
) -> None:
    """Write the next model into `out` and update `slots` in place.

    `base` and `out` hold models of `layout`, `slots` those of `slot_layout`; all may be files
    mapped into memory.
    """
    ordered = sorted(updates, key=lambda update: update.party)
    # Divided by the largest one, weights of any magnitude neither overflow nor all underflow.
    largest = max(update.weight for update in ordered)
    weighted = [(update.weight / largest, update.data) for update in ordered]
    arrays = _slot_arrays(layout, strategy, slots)
    for segment in layout.segments:
        itemsize = DTYPES[segment.dtype].itemsize
        step = CHUNK_ELEMENTS * itemsize
        for start in range(segment.start, segment.stop, step):
            span = slice(start, min(start + step, segment.stop))
            first, last = ((at - segment.start) // itemsize for at in (span.start, span.stop))
            views = {
                slot: by_segment[segment.key][first:last]
                for slot, by_segment in arrays.items()
                if segment.key in by_segment
            }
            with np.errstate(all="ignore"):
                out[span] = _aggregate_chunk(strategy, segment, weighted, base, span, views)
                _check_finite(layout, segment, span, out, views)


def _check_finite(
    layout: Layout, segment: Segment, span: slice, out: Bytes, views: Mapping[str, Floats]
) -> None:
    """Check a chunk as it is stored, as a finite number may overflow a narrower dtype."""
    if segment.dtype not in FLOATS:
        return
    for numbers in (to_numbers(out[span], segment.dtype), *views.values()):
        finite = np.isfinite(numbers)
        if not finite.all():
            offset = span.start + int(finite.argmin()) * DTYPES[segment.dtype].itemsize
            raise AggregateNotFinite(layout.entry_at(offset).name[:100])


def _aggregate_chunk(
    strategy: Strategy,
    segment: Segment,
    weighted: Sequence[tuple[float, Bytes]],
    base: Bytes,
    span: slice,
    slot_views: Mapping[str, Floats],
) -> Bytes:
    """The next model's bytes in `span`; `slot_views` are the same elements of the slots."""

    def pieces() -> Iterator[tuple[float, Any]]:
        for weight, data in weighted:
            yield weight, to_numbers(data[span], segment.dtype)

    old = to_numbers(base[span], segment.dtype)
    accumulator = np.longdouble if segment.dtype == "I64" else np.float64
    mean = strategy.combine(pieces(), np.empty(len(old), dtype=accumulator))
    if not _has_slots(segment):
        return to_bytes(mean, segment.dtype)
    slots = {slot: view.astype(np.float64) for slot, view in slot_views.items()}
    new = strategy.step(old.astype(np.float64), mean, slots)
    for slot, view in slot_views.items():
        view[:] = slots[slot]
    return to_bytes(new, segment.dtype)


def _slot_arrays(layout: Layout, strategy: Strategy, slots: Bytes) -> dict[str, dict[str, Floats]]:
    """The slots as arrays, by slot and segment."""
    arrays: dict[str, dict[str, Floats]] = {slot: {} for slot in strategy.slots}
    for entry, start in slot_layout(layout, strategy).offsets():
        slot, _, key = entry.name.partition(".")
        arrays[slot][key] = slots[start : start + entry.size].view(DTYPES[entry.dtype])
    return arrays


def _has_slots(segment: Segment) -> bool:
    return segment.trainable and segment.dtype in FLOATS


def _slot_dtype(segment: Segment) -> str:
    return "F64" if segment.dtype == "F64" else "F32"


def _element_count(segment: Segment) -> int:
    return (segment.stop - segment.start) // DTYPES[segment.dtype].itemsize
