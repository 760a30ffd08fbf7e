"""Uploads are judged as they stream, and a refused or broken one leaves nothing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.trainyard_trainer.federated.models import EVERY, FLAT, body, note, random_model
from trainyard_trainer.contract.federated import RefusalReason
from trainyard_trainer.federated.aggregation.validation import UpdateValidator
from trainyard_trainer.federated.protocol.layout import Bytes, Entry, Layout, widen
from trainyard_trainer.federated.protocol.wire import UpdateRefused
from trainyard_trainer.federated.server.spool import Spool, UpdateUpload
from trainyard_trainer.runtime.exits import StateUnusable

BASE = random_model(FLAT, 0)


def with_value(value: float, place: int = 4) -> Bytes:
    data = random_model(FLAT, 1)
    data.view("<f4")[place] = value
    return data


SMALLER = Layout.of([Entry(name="w", dtype="F32", shape=(7, 3))])
TURNED = Layout.of(
    [Entry(name="w", dtype="F32", shape=(3, 7)), Entry(name="b", dtype="F32", shape=(3,))]
)
HALF = Layout.of(
    [Entry(name="w", dtype="F16", shape=(7, 3)), Entry(name="b", dtype="F16", shape=(3,))]
)

BAD: dict[str, tuple[bytes, RefusalReason, str]] = {
    "NaN": (body(FLAT, with_value(float("nan")), note()), RefusalReason.NOT_FINITE, "w holds NaN"),
    "infinity": (
        body(FLAT, with_value(-np.inf, 22), note()),
        RefusalReason.NOT_FINITE,
        "b holds NaN",
    ),
    "a tensor too few": (
        body(SMALLER, random_model(SMALLER, 1), note()),
        RefusalReason.SHAPE,
        "it lacks b",
    ),
    "another shape": (
        body(TURNED, random_model(TURNED, 1), note()),
        RefusalReason.SHAPE,
        r"not F32\[7",
    ),
    "another dtype": (body(HALF, random_model(HALF, 1), note()), RefusalReason.SHAPE, "w as F16"),
    "no weight": (body(FLAT, BASE, note(weight=0)), RefusalReason.WEIGHT, "weight is 0"),
    "a negative weight": (
        body(FLAT, BASE, note(weight=-2.5)),
        RefusalReason.WEIGHT,
        "weight is -2.5",
    ),
    "a weight that is none": (
        body(FLAT, BASE, note(weight=float("nan"))),
        RefusalReason.WEIGHT,
        "weight is nan",
    ),
    "no samples": (body(FLAT, BASE, note(samples=0)), RefusalReason.WEIGHT, "for 0 samples"),
    "a weight in words": (
        body(FLAT, BASE, note(weight="1")),
        RefusalReason.HEADER,
        "document is wrong",
    ),
    "no round": (body(FLAT, BASE, {"weight": 1.0}), RefusalReason.HEADER, "document is wrong"),
    "a byte changed": (body(FLAT, BASE, note())[:-1] + b"!", RefusalReason.CHECKSUM, "checksum"),
    "half of it": (body(FLAT, BASE, note())[:-20], RefusalReason.SIZE, "ended before"),
    "too much": (body(FLAT, BASE, note()) + b"more", RefusalReason.SIZE, "more bytes"),
    "an oversized header": (b"\xff" * 8, RefusalReason.HEADER, "are the most"),
    "no header": (b"\x02" + bytes(7) + b"[]", RefusalReason.HEADER, "cannot be read"),
}


def send(spool: Spool, whole: bytes, step: int = 7) -> Any:
    upload = UpdateUpload(spool, FLAT, BASE)
    try:
        for start in range(0, len(whole), step):
            upload.feed(whole[start : start + step])
        return upload.close()
    except UpdateRefused:
        upload.discard()
        raise


@pytest.mark.parametrize("memory", [0, 1 << 20], ids=["disk", "memory"])
@pytest.mark.parametrize(("whole", "refusal", "says"), BAD.values(), ids=BAD)
def test_a_bad_update_is_refused_and_leaves_nothing(
    tmp_path: Path, whole: bytes, refusal: RefusalReason, says: str, memory: int
) -> None:
    spool = Spool(tmp_path, memory)
    with pytest.raises(UpdateRefused, match=says) as refused:
        send(spool, whole)
    assert refused.value.refusal is refusal
    assert list(tmp_path.iterdir()) == []
    assert spool.reserve(memory), "its memory was given back"


@pytest.mark.parametrize("memory", [0, 1 << 20], ids=["disk", "memory"])
def test_a_good_update_comes_out_as_it_went_in(tmp_path: Path, memory: int) -> None:
    spool = Spool(tmp_path, memory)
    data = random_model(FLAT, 1)
    found, draft = send(spool, body(FLAT, data, note(samples=7, weight=3.5)))
    assert (found.samples, found.weight) == (7, 3.5)
    assert (draft.read() == data).all()
    assert bool(list(tmp_path.iterdir())) == (memory == 0)
    draft.discard()
    assert list(tmp_path.iterdir()) == []
    assert spool.reserve(memory)


def test_what_does_not_fit_into_memory_goes_to_disk(tmp_path: Path) -> None:
    spool = Spool(tmp_path, FLAT.size)
    whole = body(FLAT, BASE, note())
    first, second = send(spool, whole)[1], send(spool, whole)[1]
    assert len(list(tmp_path.iterdir())) == 1
    assert (first.read() == second.read()).all()
    first.discard()
    send(spool, whole)
    assert len(list(tmp_path.iterdir())) == 1, "there is room in memory again"


def test_a_full_disk_is_named_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainyard_trainer.federated.server.spool.os.urandom", bytes)
    (tmp_path / f"update-{bytes(8).hex()}").symlink_to("/dev/full")
    upload = UpdateUpload(Spool(tmp_path, 0), FLAT, BASE)
    upload.feed(body(FLAT, BASE, note()))
    draft = upload.close()[1]
    with pytest.raises(StateUnusable, match=r"cannot be kept in the state directory: .*No space"):
        draft.read()
    upload.discard()
    assert list(tmp_path.iterdir()) == []


def test_an_empty_model_is_a_model(tmp_path: Path) -> None:
    empty = Layout.of([])
    upload = UpdateUpload(Spool(tmp_path, 0), empty, np.empty(0, np.uint8))
    upload.feed(body(empty, np.empty(0, np.uint8), note()))
    assert upload.close()[1].read().size == 0


@given(st.integers(0, 2**32), st.sampled_from([8, 16, 64, 1 << 20]))
def test_the_norm_is_the_distance_from_the_base(seed: int, block: int) -> None:
    base, data = random_model(EVERY, seed), random_model(EVERY, seed + 1)
    inspector = UpdateValidator(EVERY, base)
    for start in range(0, len(data), block):
        inspector.feed(data[start : start + block])
    squares = 0.0
    for entry, start in EVERY.places():
        if entry.dtype in ("F64", "F32", "F16", "BF16"):
            span = slice(start, start + entry.size)
            mine, theirs = (widen(side[span], entry.dtype).astype(float) for side in (base, data))
            squares += float(np.square(theirs - mine).sum())
    assert inspector.norm == pytest.approx(squares**0.5, rel=1e-5)


def test_finite_numbers_whose_squares_are_not_are_taken() -> None:
    huge = np.full(24, 3e38, "<f4").view(np.uint8)
    inspector = UpdateValidator(FLAT, BASE)
    inspector.feed(huge)
    assert inspector.norm == pytest.approx(3e38 * 24**0.5)
