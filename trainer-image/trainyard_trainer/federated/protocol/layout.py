"""How a model's state lies in memory, on disk and on the wire: one flat buffer per dtype.

It stands apart, and is pure, because both sides and the store agree on it. The format is that of
safetensors (documented, nothing is executed on load) with an order of its own: wide dtypes before
narrow ones, and within a dtype what was trained before what is only averaged. So every run of
equal treatment is contiguous and aligned, and a download is byte for byte the stored file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
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
    "BF16": np.dtype("<u2"),  # NumPy has no bfloat16: its bits.
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("u1"),
}
"""safetensors' names, the widest first; what each is stored as."""
ORDER: Final = {name: place for place, name in enumerate(DTYPES)}
FLOATS: Final = frozenset({"F64", "F32", "F16", "BF16"})

LENGTH_BYTES: Final = 8
"""A file begins with its header's length, an unsigned little-endian integer."""
HEADER_BYTES: Final = 16 << 20
"""The longest header taken; one of 10,000 tensors is about 1 MB."""
TENSORS: Final = 100_000
MODEL_BYTES: Final = 1 << 40
DIMENSIONS: Final = 16
NAME_LENGTH: Final = 1_000
DOCUMENT: Final = "trainyard"
"""The key of the file's metadata under which a JSON document stands."""
UNTRAINED: Final = "untrained"
"""The key under which the names stand that no optimiser trains: the model's buffers."""


class MalformedLayout(ValueError):
    """A header that is none, or beyond the limits; the message says what is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One tensor."""

    name: str
    dtype: str
    """A key of `DTYPES`."""
    shape: tuple[int, ...]
    trained: bool = True
    """Whether optimisers change it; what they do not (BatchNorm's statistics) is only averaged."""

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Its bytes."""
        return self.elements * DTYPES[self.dtype].itemsize


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A run of tensors of one dtype that are treated alike."""

    dtype: str
    trained: bool
    start: int
    """First byte, counted from the end of the header."""
    stop: int

    @property
    def key(self) -> str:
        """A name for what strategies keep beside it."""
        return f"{self.dtype}.{'trained' if self.trained else 'averaged'}"


@dataclass(frozen=True)
class Layout:
    """The tensors of a model in their order; equal layouts hold the same models."""

    entries: tuple[Entry, ...]

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> Layout:
        """The layout of these tensors, put in order; equal ones keep theirs."""
        return cls(tuple(sorted(entries, key=_rank)))

    @cached_property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(entry.size for entry in self.entries)

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """Runs of one dtype and treatment, in order."""
        found, start = [], 0
        for (dtype, trained), run in groupby(self.entries, lambda e: (e.dtype, e.trained)):
            stop = start + sum(entry.size for entry in run)
            found.append(Segment(dtype=dtype, trained=trained, start=start, stop=stop))
            start = stop
        return tuple(found)

    def places(self) -> Iterator[tuple[Entry, int]]:
        """Each tensor with its first byte."""
        start = 0
        for entry in self.entries:
            yield entry, start
            start += entry.size

    def at(self, offset: int) -> Entry:
        """The tensor that the byte at `offset` belongs to."""
        return next(e for e, start in self.places() if start <= offset < start + e.size)

    def difference(self, other: Layout) -> str:
        """What sets `other` apart from this layout, in a few words; empty when they are equal."""
        mine, theirs = ({e.name: e for e in layout.entries} for layout in (self, other))
        if missing := sorted(mine.keys() - theirs.keys()):
            return f"lacks {_few(missing)}"
        if unknown := sorted(theirs.keys() - mine.keys()):
            return f"has {_few(unknown)}, which the model lacks"
        for name, entry in mine.items():
            if (found := theirs[name]) != entry:
                return f"has {name} as {_describe(found)}, not {_describe(entry)}"
        return "" if self.entries == other.entries else "has the tensors in another order"

    def header(self, document: Mapping[str, Any]) -> bytes:
        """The beginning of a file: length and JSON, padded so that the tensors are aligned."""
        untrained = [entry.name for entry in self.entries if not entry.trained]
        metadata = {DOCUMENT: json.dumps(document), UNTRAINED: json.dumps(untrained)}
        fields: dict[str, Any] = {"__metadata__": metadata}
        for entry, start in self.places():
            offsets = [start, start + entry.size]
            fields[entry.name] = {
                "dtype": entry.dtype,
                "shape": entry.shape,
                "data_offsets": offsets,
            }
        text = json.dumps(fields, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(LENGTH_BYTES, "little") + text


def parse(text: bytes) -> tuple[Layout, dict[str, Any]]:
    """The layout and the document of a header without its length; raises Malformed."""
    try:
        fields = json.loads(text)
        metadata = fields.pop("__metadata__")
        document, untrained = json.loads(metadata[DOCUMENT]), json.loads(metadata[UNTRAINED])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise MalformedLayout(f"the header cannot be read: {type(error).__name__}") from None
    if not isinstance(document, dict) or not isinstance(untrained, list):
        raise MalformedLayout("the header's document is no JSON object")
    if len(fields) > TENSORS:
        raise MalformedLayout(f"the header names {len(fields)} tensors; {TENSORS} are the most")
    averaged = {name for name in untrained if isinstance(name, str)}
    layout = Layout(tuple(_entry(name, value, averaged) for name, value in fields.items()))
    _check_order(layout, fields)
    return layout, document


def _entry(name: str, value: Any, averaged: set[str]) -> Entry:
    shown = name[:100]
    if len(name) > NAME_LENGTH or not isinstance(value, dict):
        raise MalformedLayout(f"{shown!r} is no tensor's description")
    dtype, shape = value.get("dtype"), value.get("shape")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise MalformedLayout(f"{shown} has the dtype {str(dtype)[:20]!r}; use {', '.join(DTYPES)}")
    if not isinstance(shape, list) or len(shape) > DIMENSIONS:
        raise MalformedLayout(f"{shown} has no shape of at most {DIMENSIONS} dimensions")
    if not all(type(n) is int and 0 <= n <= MODEL_BYTES for n in shape):
        raise MalformedLayout(f"{shown} has a shape that is none")
    return Entry(name=name, dtype=dtype, shape=tuple(shape), trained=name not in averaged)


def _check_order(layout: Layout, fields: Mapping[str, Any]) -> None:
    if layout.size > MODEL_BYTES:
        raise MalformedLayout(f"the tensors have {layout.size} bytes; {MODEL_BYTES} are the most")
    for entry, start in layout.places():
        if fields[entry.name].get("data_offsets") != [start, start + entry.size]:
            raise MalformedLayout(f"{entry.name[:100]} does not lie where the one before it ends")
    if Layout.of(layout.entries) != layout:
        raise MalformedLayout("the tensors are not sorted by dtype, trained ones first")


def _rank(entry: Entry) -> tuple[int, bool]:
    return ORDER[entry.dtype], not entry.trained


def _few(names: list[str]) -> str:
    return ", ".join(name[:100] for name in names[:5])


def _describe(entry: Entry) -> str:
    kind = "" if entry.trained else ", not trained"
    return f"{entry.dtype}{list(entry.shape)}{kind}"


def widen(stored: Bytes, dtype: str) -> NDArray[Any]:
    """Stored bytes as numbers that NumPy can compute with: bfloat16 as float32, BOOL as bool."""
    numbers = stored.view(DTYPES[dtype])
    if dtype == "BF16":
        return (numbers.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return numbers != 0 if dtype == "BOOL" else numbers


def narrow(numbers: NDArray[Any], dtype: str) -> Bytes:
    """Float numbers as stored bytes: rounded to nearest even, integers held to their range.

    `numbers` are float64 or longdouble; a boolean is true from one half.
    """
    kind = DTYPES[dtype]
    if dtype == "BOOL":
        return (numbers >= 0.5).view(np.uint8)
    if dtype == "BF16":
        return _bfloat16(numbers.astype(np.float64)).view(np.uint8)
    if dtype in FLOATS:
        return numbers.astype(kind).view(np.uint8)
    bounds = np.iinfo(kind)
    held: NDArray[Any] = np.clip(np.rint(numbers), bounds.min, bounds.max).astype(kind)
    return held.view(np.uint8)


def _bfloat16(numbers: NDArray[np.float64]) -> NDArray[np.uint16]:
    """The bits of the nearest bfloat16, ties to even, rounded once.

    float64 is first rounded to bfloat16's 8 significant bits, which float32 holds exactly; only
    bfloat16's subnormals, which have fewer, are rounded again.
    """
    bits = numbers.view(np.uint64)
    half = np.uint64((1 << 44) - 1) + ((bits >> np.uint64(45)) & np.uint64(1))
    rounded = ((bits + half) & ~np.uint64((1 << 45) - 1)).view(np.float64)
    single = rounded.astype(np.float32).view(np.uint32)
    single += np.uint32(0x7FFF) + ((single >> np.uint32(16)) & np.uint32(1))
    return (single >> np.uint32(16)).astype(np.uint16)
