"""The layout of a model in memory, on disk and on the wire: one flat buffer per dtype.

The format is safetensors (documented, nothing is executed on load) with an order of its own: wide
dtypes before narrow ones, and within a dtype trainable tensors before those that are only averaged.
So every run of tensors that are treated alike is contiguous and aligned, and a download is byte for
byte the stored file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

DTYPES: Final[Mapping[str, np.dtype[Any]]] = {
    "F64": np.dtype("<f8"),
    "I64": np.dtype("<i8"),
    "F32": np.dtype("<f4"),
    "I32": np.dtype("<i4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),  # Its bits: NumPy has no bfloat16.
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("u1"),
}
"""How each dtype, by its name in safetensors, is stored; the widest first."""
DTYPE_ORDER: Final = {name: index for index, name in enumerate(DTYPES)}
FLOATS: Final = frozenset({"F64", "F32", "F16", "BF16"})

LENGTH_BYTES: Final = 8
"""Of the header's length, an unsigned little-endian integer at the start of a file."""
MAX_HEADER_BYTES: Final = 16 << 20
"""A header of 10,000 tensors is about 1 MB."""
DOCUMENT_BYTES: Final = 64 << 10
"""Beyond the header of a model of a known layout: for the document, and for tensors that differ."""
MAX_TENSORS: Final = 100_000
MAX_HEADER_VALUES: Final = 16 * MAX_TENSORS
"""JSON values, by their separators: parsing allocates for each of them."""
MAX_MODEL_BYTES: Final = 1 << 40
MAX_DIMENSIONS: Final = 16
MAX_NAME_LENGTH: Final = 1_000
DOCUMENT_KEY: Final = "trainyard"
"""The key of the JSON document in the file's metadata."""
NON_TRAINABLE_KEY: Final = "untrained"
"""The key of the names of tensors that no optimizer changes, such as buffers."""
FILE_NAMES_KEY: Final = "file_names"
"""The key of the names in a model file of those tensors that do not have one name, their own."""


class MalformedLayout(ValueError):
    """A header is invalid or beyond the limits; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One tensor."""

    name: str
    dtype: str
    """A key of `DTYPES`."""
    shape: tuple[int, ...]
    trainable: bool = True
    """Whether optimizers change it; others (BatchNorm's statistics) are only averaged."""
    file_names: tuple[str, ...] | None = field(default=None, compare=False)
    """Its names in a model file: several if it is tied, none if the model's `state_dict` lacks it;
    None for its own name alone. Layouts that differ in them can be averaged."""

    @property
    def elements(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """In bytes."""
        return self.elements * DTYPES[self.dtype].itemsize

    @property
    def published(self) -> tuple[Entry, ...]:
        """The same tensor as a model file has it: under each of its names there."""
        if self.file_names is None:
            return (self,)
        return tuple(replace(self, name=name, file_names=None) for name in self.file_names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A run of tensors of one dtype that are treated alike."""

    dtype: str
    trainable: bool
    start: int
    """First byte, counted from the end of the header."""
    stop: int

    @property
    def key(self) -> str:
        """Names the slots that a strategy keeps for it."""
        return f"{self.dtype}.{'trainable' if self.trainable else 'averaged'}"


@dataclass(frozen=True)
class Layout:
    """The tensors of a model, in order; models of equal layouts can be averaged."""

    entries: tuple[Entry, ...]

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> Layout:
        """The layout of these tensors, sorted (stably) by dtype, trainable ones first."""
        return cls(tuple(sorted(entries, key=_sort_key)))

    @cached_property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(entry.size for entry in self.entries)

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """Runs of tensors of one dtype that are all trainable or all not, in order."""
        segments, start = [], 0
        for (dtype, trainable), run in groupby(self.entries, lambda e: (e.dtype, e.trainable)):
            stop = start + sum(entry.size for entry in run)
            segments.append(Segment(dtype=dtype, trainable=trainable, start=start, stop=stop))
            start = stop
        return tuple(segments)

    @cached_property
    def published(self) -> Layout:
        """The layout of the final model's file, which `load_state_dict` accepts."""
        return Layout.of(entry for mine in self.entries for entry in mine.published)

    def offsets(self) -> Iterator[tuple[Entry, int]]:
        """Each tensor with the offset of its first byte."""
        start = 0
        for entry in self.entries:
            yield entry, start
            start += entry.size

    def entry_at(self, offset: int) -> Entry:
        """The tensor that the byte at `offset` belongs to."""
        return next(e for e, start in self.offsets() if start <= offset < start + e.size)

    def difference(self, other: Layout) -> str:
        """How `other` differs from this layout, as the end of a sentence; empty if it does not."""
        mine, theirs = ({e.name: e for e in layout.entries} for layout in (self, other))
        if missing := sorted(mine.keys() - theirs.keys()):
            return f"lacks {_first_names(missing)}"
        if unknown := sorted(theirs.keys() - mine.keys()):
            return f"has {_first_names(unknown)}, which the model lacks"
        for name, entry in mine.items():
            if (found := theirs[name]) != entry:
                return f"has {name} as {_describe(found)}, not {_describe(entry)}"
        return "" if self.entries == other.entries else "has the tensors in another order"

    @cached_property
    def max_header_bytes(self) -> int:
        """More than the header of any update of a model of this layout has."""
        return min(MAX_HEADER_BYTES, len(self.header({})) + DOCUMENT_BYTES)

    def header(self, document: Mapping[str, Any]) -> bytes:
        """The start of a file: length and JSON, padded so that the tensors are aligned."""
        averaged = [entry.name for entry in self.entries if not entry.trainable]
        metadata = {DOCUMENT_KEY: json.dumps(document), NON_TRAINABLE_KEY: json.dumps(averaged)}
        names = {e.name: e.file_names for e in self.entries if e.file_names is not None}
        if names:
            metadata[FILE_NAMES_KEY] = json.dumps(names)
        fields: dict[str, Any] = {"__metadata__": metadata}
        for entry, start in self.offsets():
            fields[entry.name] = {
                "dtype": entry.dtype,
                "shape": entry.shape,
                "data_offsets": [start, start + entry.size],
            }
        text = json.dumps(fields, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(LENGTH_BYTES, "little") + text


def parse_header(text: bytes) -> tuple[Layout, dict[str, Any]]:
    """The layout and the document of a header, without its length; raises MalformedLayout."""
    values = sum(text.count(mark) for mark in (b",", b"[", b"{"))
    if values > MAX_HEADER_VALUES:
        raise MalformedLayout(
            f"the header holds {values} values; at most {MAX_HEADER_VALUES} are allowed"
        )
    try:
        fields = json.loads(text)
        metadata = fields.pop("__metadata__")
        document = json.loads(metadata[DOCUMENT_KEY])
        averaged = json.loads(metadata[NON_TRAINABLE_KEY])
        file_names = json.loads(metadata.get(FILE_NAMES_KEY, "{}"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise MalformedLayout(f"the header cannot be read: {type(error).__name__}") from None
    if not isinstance(document, dict) or not isinstance(averaged, list):
        raise MalformedLayout("the header's document is not a JSON object")
    if not isinstance(file_names, dict):
        raise MalformedLayout("the header's names of a model file are not a JSON object")
    if len(fields) > MAX_TENSORS:
        raise MalformedLayout(
            f"the header names {len(fields)} tensors; at most {MAX_TENSORS} are allowed"
        )
    names = {name for name in averaged if isinstance(name, str)}
    layout = Layout(
        tuple(_entry(name, value, names, file_names.get(name)) for name, value in fields.items())
    )
    _check_order(layout, fields)
    _check_published(layout)
    return layout, document


def _entry(name: str, value: Any, averaged: set[str], file_names: Any) -> Entry:
    shown = name[:100]
    if len(name) > MAX_NAME_LENGTH or not isinstance(value, dict):
        raise MalformedLayout(f"{shown!r} does not describe a tensor")
    dtype, shape = value.get("dtype"), value.get("shape")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise MalformedLayout(f"{shown} has the dtype {str(dtype)[:20]!r}; use {', '.join(DTYPES)}")
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS:
        raise MalformedLayout(f"{shown} needs a shape of at most {MAX_DIMENSIONS} dimensions")
    if not all(type(n) is int and 0 <= n <= MAX_MODEL_BYTES for n in shape):
        raise MalformedLayout(f"{shown} has an invalid shape")
    return Entry(
        name=name,
        dtype=dtype,
        shape=tuple(shape),
        trainable=name not in averaged,
        file_names=None if file_names is None else _file_names(name, file_names),
    )


def _file_names(name: str, value: Any) -> tuple[str, ...]:
    is_list = isinstance(value, list)
    if not is_list or not all(isinstance(n, str) and len(n) <= MAX_NAME_LENGTH for n in value):
        raise MalformedLayout(f"{name[:100]} has invalid names in a model file")
    return tuple(value)


def _check_order(layout: Layout, fields: Mapping[str, Any]) -> None:
    if layout.size > MAX_MODEL_BYTES:
        raise MalformedLayout(
            f"the tensors have {layout.size} bytes; at most {MAX_MODEL_BYTES} are allowed"
        )
    for entry, start in layout.offsets():
        if fields[entry.name].get("data_offsets") != [start, start + entry.size]:
            name = entry.name[:100]
            raise MalformedLayout(f"{name} does not start where the previous tensor ends")
    if Layout.of(layout.entries) != layout:
        raise MalformedLayout("the tensors are not sorted by dtype, trainable ones first")


def _check_published(layout: Layout) -> None:
    published = layout.published
    count, names = len(published.entries), {entry.name for entry in published.entries}
    if len(names) < count:
        raise MalformedLayout("two tensors have the same name in a model file")
    if count > MAX_TENSORS or published.size > MAX_MODEL_BYTES:
        raise MalformedLayout(
            f"a model file of {count} tensors and {published.size} bytes is too large; at most "
            f"{MAX_TENSORS} tensors and {MAX_MODEL_BYTES} bytes are allowed"
        )


def _sort_key(entry: Entry) -> tuple[int, bool]:
    return DTYPE_ORDER[entry.dtype], not entry.trainable


def _first_names(names: list[str]) -> str:
    return ", ".join(name[:100] for name in names[:5])


def _describe(entry: Entry) -> str:
    kind = "" if entry.trainable else ", not trainable"
    return f"{entry.dtype}{list(entry.shape)}{kind}"


def to_numbers(stored: Bytes, dtype: str) -> NDArray[Any]:
    """Stored bytes as numbers that NumPy computes with: BF16 as float32, BOOL as bool."""
    numbers = stored.view(DTYPES[dtype])
    if dtype == "BF16":
        return (numbers.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return numbers != 0 if dtype == "BOOL" else numbers


def to_bytes(numbers: NDArray[Any], dtype: str) -> Bytes:
    """Numbers as stored bytes: rounded to nearest even, integers clipped to their range.

    `numbers` are float64 or longdouble; booleans are true from one half.
    """
    kind = DTYPES[dtype]
    if dtype == "BOOL":
        return (numbers >= 0.5).view(np.uint8)
    if dtype == "BF16":
        return _bfloat16(numbers.astype(np.float64)).view(np.uint8)
    if dtype in FLOATS:
        return numbers.astype(kind).view(np.uint8)
    bounds = np.iinfo(kind)
    clipped: NDArray[Any] = np.clip(np.rint(numbers), bounds.min, bounds.max).astype(kind)
    return clipped.view(np.uint8)


def _bfloat16(numbers: NDArray[np.float64]) -> NDArray[np.uint16]:
    """The bits of the nearest bfloat16, ties to even, rounded once.

    Numbers are rounded to bfloat16's 8 significant bits, and its subnormals, which have fewer, to
    multiples of the smallest one; float32 represents all of these exactly.
    """
    bits = numbers.view(np.uint64)
    half = np.uint64((1 << 44) - 1) + ((bits >> np.uint64(45)) & np.uint64(1))
    rounded = ((bits + half) & ~np.uint64((1 << 45) - 1)).view(np.float64)
    subnormal = np.abs(numbers) < 2.0**-126
    rounded[subnormal] = np.rint(numbers[subnormal] * 2.0**133) * 2.0**-133
    single = rounded.astype(np.float32).view(np.uint32)
    return (single >> np.uint32(16)).astype(np.uint16)
