"""Models of all dtypes and bodies of uploads, for the tests of federated training."""

import zlib
from typing import Any

import numpy as np
from hypothesis import strategies as st

from trainyard_trainer.federated.protocol.layout import DTYPES, FLOATS, Bytes, Entry, Layout

EVERY = Layout.of(
    Entry(name=f"{dtype}-{trained}", dtype=dtype, shape=(3, 5), trainable=trained)
    for dtype in DTYPES
    for trained in (True, False)
)
FLAT = Layout.of(
    [Entry(name="w", dtype="F32", shape=(7, 3)), Entry(name="b", dtype="F32", shape=(3,))]
)


def entries() -> st.SearchStrategy[list[Entry]]:
    shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
    return st.lists(
        st.builds(
            Entry,
            name=st.text(min_size=1, max_size=8).filter(lambda n: n != "__metadata__"),
            dtype=st.sampled_from(sorted(DTYPES)),
            shape=shapes,
            trainable=st.booleans(),
        ),
        max_size=8,
        unique_by=lambda entry: entry.name,
    )


def random_model(layout: Layout, seed: int) -> Bytes:
    """Finite numbers of every dtype."""
    rng = np.random.default_rng(seed)
    data = np.empty(layout.size, np.uint8)
    for entry, start in layout.offsets():
        data[start : start + entry.size] = random_numbers(entry, rng).view(np.uint8)
    return data


def random_numbers(entry: Entry, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    kind = DTYPES[entry.dtype]
    if entry.dtype == "BF16":
        singles = rng.normal(size=entry.elements).astype(np.float32)
        return (singles.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    if entry.dtype in FLOATS:
        return rng.normal(size=entry.elements).astype(kind)
    if entry.dtype == "BOOL":
        return rng.integers(0, 2, entry.elements).astype(kind)
    return rng.integers(0, 100, entry.elements).astype(kind)


def metadata(**changes: Any) -> dict[str, Any]:
    return {"term": 1, "round": 1, "samples": 10, "weight": 10.0, "loss": 0.5, **changes}


def body(layout: Layout, data: Bytes, document: dict[str, Any]) -> bytes:
    """An upload as it goes over the wire."""
    whole = layout.header(document) + data.tobytes()
    return whole + zlib.crc32(whole).to_bytes(4, "little")
