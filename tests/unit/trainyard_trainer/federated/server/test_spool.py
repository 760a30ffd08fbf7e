"""Uploads are validated while they stream; a refused or broken one leaves nothing."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.trainyard_trainer.federated.models import EVERY, FLAT, body, metadata, random_model
from trainyard_trainer.contract.federated import RefusalReason
from trainyard_trainer.federated.aggregation.validation import UpdateValidator
from trainyard_trainer.federated.protocol.layout import (
    Bytes,
    Entry,
    Layout,
    parse_header,
    to_numbers,
)
from trainyard_trainer.federated.protocol.wire import UpdateRefused
from trainyard_trainer.federated.server.spool import Spool, UpdateUpload
from trainyard_trainer.runtime.exits import StateUnusable

BASE = random_model(FLAT, 0)


def with_value(value: float, index: int = 4) -> Bytes:
    data = random_model(FLAT, 1)
    data.view("<f4")[index] = value
    return data


SMALLER = Layout.of([Entry(name="w", dtype="F32", shape=(7, 3))])
TRANSPOSED = Layout.of(
    [Entry(name="w", dtype="F32", shape=(3, 7)), Entry(name="b", dtype="F32", shape=(3,))]
)
HALF = Layout.of(
    [Entry(name="w", dtype="F16", shape=(7, 3)), Entry(name="b", dtype="F16", shape=(3,))]
)

BAD: dict[str, tuple[bytes, RefusalReason, str]] = {
    "NaN": (
        body(FLAT, with_value(float("nan")), metadata()),
        RefusalReason.NOT_FINITE,
        "w holds NaN",
    ),
    "infinity": (
        body(FLAT, with_value(-np.inf, 22), metadata()),
        RefusalReason.NOT_FINITE,
        "b holds NaN",
    ),
    "a missing tensor": (
        body(SMALLER, random_model(SMALLER, 1), metadata()),
        RefusalReason.SHAPE,
        "it lacks b",
    ),
    "another shape": (
        body(TRANSPOSED, random_model(TRANSPOSED, 1), metadata()),
        RefusalReason.SHAPE,
        r"not F32\[7",
    ),
    "another dtype": (
        body(HALF, random_model(HALF, 1), metadata()),
        RefusalReason.SHAPE,
        "w as F16",
    ),
    "no weight": (body(FLAT, BASE, metadata(weight=0)), RefusalReason.WEIGHT, "weight is 0"),
    "a negative weight": (
        body(FLAT, BASE, metadata(weight=-2.5)),
        RefusalReason.WEIGHT,
        "weight is -2.5",
    ),
    "a weight of NaN": (
        body(FLAT, BASE, metadata(weight=float("nan"))),
        RefusalReason.WEIGHT,
        "weight is nan",
    ),
    "no samples": (body(FLAT, BASE, metadata(samples=0)), RefusalReason.WEIGHT, "for 0 samples"),
    "a weight of the wrong type": (
        body(FLAT, BASE, metadata(weight="1")),
        RefusalReason.HEADER,
        "document is invalid",
    ),
    "no round": (body(FLAT, BASE, {"weight": 1.0}), RefusalReason.HEADER, "document is invalid"),
    "a byte changed": (
        body(FLAT, BASE, metadata())[:-1] + b"!",
        RefusalReason.CHECKSUM,
        "checksum",
    ),
    "a truncated body": (body(FLAT, BASE, metadata())[:-20], RefusalReason.SIZE, "ended before"),
    "too many bytes": (body(FLAT, BASE, metadata()) + b"more", RefusalReason.SIZE, "more bytes"),
    "an oversized header": (b"\xff" * 8, RefusalReason.HEADER, "are allowed"),
    "no header": (b"\x02" + bytes(7) + b"[]", RefusalReason.HEADER, "cannot be read"),
}


def send(spool: Spool, upload_body: bytes, step: int = 7) -> Any:
    upload = UpdateUpload(spool, FLAT, BASE)
    try:
        for start in range(0, len(upload_body), step):
            upload.feed(upload_body[start : start + step])
        return upload.close()
    except UpdateRefused:
        upload.discard()
        raise


@pytest.mark.parametrize("memory", [0, 1 << 20], ids=["disk", "memory"])
@pytest.mark.parametrize(("upload_body", "refusal", "message"), BAD.values(), ids=BAD)
def test_an_invalid_update_is_refused_and_leaves_nothing(
    tmp_path: Path, upload_body: bytes, refusal: RefusalReason, message: str, memory: int
) -> None:
    spool = Spool(tmp_path, memory)
    with pytest.raises(UpdateRefused, match=message) as refused:
        send(spool, upload_body)
    assert refused.value.reason is refusal
    assert list(tmp_path.iterdir()) == []
    assert spool.reserve(memory), "its memory is free again"


@pytest.mark.parametrize("memory", [0, 1 << 20], ids=["disk", "memory"])
def test_a_valid_update_is_spooled_unchanged(tmp_path: Path, memory: int) -> None:
    spool = Spool(tmp_path, memory)
    data = random_model(FLAT, 1)
    received = send(spool, body(FLAT, data, metadata(samples=7, weight=3.5)))
    assert (received.metadata.samples, received.metadata.weight) == (7, 3.5)
    assert received.layout == FLAT
    assert (received.tensors.read() == data).all()
    assert bool(list(tmp_path.iterdir())) == (memory == 0)
    received.tensors.discard()
    assert list(tmp_path.iterdir()) == []
    assert spool.reserve(memory)


def test_an_update_beyond_the_memory_budget_goes_to_disk(tmp_path: Path) -> None:
    spool = Spool(tmp_path, FLAT.size)
    upload_body = body(FLAT, BASE, metadata())
    first, second = send(spool, upload_body).tensors, send(spool, upload_body).tensors
    assert len(list(tmp_path.iterdir())) == 1
    assert (first.read() == second.read()).all()
    first.discard()
    send(spool, upload_body)
    assert len(list(tmp_path.iterdir())) == 1, "the memory is free again"


def test_a_full_disk_is_reported_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainyard_trainer.federated.server.spool.os.urandom", bytes)
    (tmp_path / f"update-{bytes(8).hex()}").symlink_to("/dev/full")
    upload = UpdateUpload(Spool(tmp_path, 0), FLAT, BASE)
    upload.feed(body(FLAT, BASE, metadata()))
    tensors = upload.close().tensors
    with pytest.raises(StateUnusable, match=r"cannot be kept in the state directory: .*No space"):
        tensors.read()
    upload.discard()
    assert list(tmp_path.iterdir()) == []


def test_an_empty_model_is_valid(tmp_path: Path) -> None:
    empty = Layout.of([])
    upload = UpdateUpload(Spool(tmp_path, 0), empty, np.empty(0, np.uint8))
    upload.feed(body(empty, np.empty(0, np.uint8), metadata()))
    assert upload.close().tensors.read().size == 0


@given(st.integers(0, 2**32), st.sampled_from([8, 16, 64, 1 << 20]))
def test_the_norm_is_the_distance_from_the_base(seed: int, block: int) -> None:
    base, data = random_model(EVERY, seed), random_model(EVERY, seed + 1)
    validator = UpdateValidator(EVERY, base)
    for start in range(0, len(data), block):
        validator.feed(data[start : start + block])
    squares = 0.0
    for entry, start in EVERY.offsets():
        if entry.dtype in ("F64", "F32", "F16", "BF16"):
            span = slice(start, start + entry.size)
            mine, theirs = (
                to_numbers(side[span], entry.dtype).astype(float) for side in (base, data)
            )
            squares += float(np.square(theirs - mine).sum())
    assert validator.norm == pytest.approx(squares**0.5, rel=1e-5)


def test_finite_numbers_with_infinite_squares_are_accepted() -> None:
    huge = np.full(24, 3e38, "<f4").view(np.uint8)
    validator = UpdateValidator(FLAT, BASE)
    validator.feed(huge)
    assert validator.norm == pytest.approx(3e38 * 24**0.5)


@pytest.mark.parametrize("memory", [0, 1 << 20], ids=["disk", "memory"])
def test_an_upload_discarded_while_a_thread_feeds_it_leaves_nothing(
    tmp_path: Path, memory: int
) -> None:
    spool = Spool(tmp_path, memory)
    upload = UpdateUpload(spool, FLAT, BASE)
    whole = body(FLAT, BASE, metadata())
    upload.feed(whole[:-40])
    upload.discard()
    upload.feed(whole[-40:])
    late = UpdateUpload(spool, FLAT, BASE)
    late.discard()
    late.feed(whole)
    assert list(tmp_path.iterdir()) == []
    assert spool.reserve(memory), "its memory is free again"


def test_the_memory_budget_is_not_exceeded_by_threads(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1000)
    with ThreadPoolExecutor(8) as pool:
        taken = sum(pool.map(spool.reserve, [10] * 500))
    assert taken == 100


def test_a_header_larger_than_the_models_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    upload = UpdateUpload(Spool(tmp_path), FLAT, BASE)
    with pytest.raises(UpdateRefused, match="its header has 16777216 bytes; at most") as refused:
        upload.feed((16 << 20).to_bytes(8, "little"))
    assert refused.value.reason is RefusalReason.HEADER


def test_a_header_of_an_initial_model_holds_a_bounded_number_of_values(tmp_path: Path) -> None:
    text = b"[" + b"[]," * (5 << 20) + b"[]]"
    upload = UpdateUpload(Spool(tmp_path), None, None)
    with pytest.raises(UpdateRefused, match="the header holds") as refused:
        upload.feed(len(text).to_bytes(8, "little") + text)
    assert refused.value.reason is RefusalReason.HEADER


def test_a_header_of_the_most_tensors_is_accepted() -> None:
    layout = Layout.of(
        Entry(name=f"layers.{number}.weight", dtype="F32", shape=(2, 2, 2, 2))
        for number in range(50_000)
    )
    assert parse_header(layout.header(metadata())[8:])[0] == layout
