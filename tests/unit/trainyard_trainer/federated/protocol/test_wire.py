"""Bodies are taken apart wherever they are cut, and nothing broken passes."""

import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.trainyard_trainer.federated.models import EVERY, body, note, random_model
from trainyard_trainer.contract.federated import RefusalReason
from trainyard_trainer.federated.protocol.layout import HEADER_BYTES
from trainyard_trainer.federated.protocol.wire import TransferParser, UpdateRefused

DATA = random_model(EVERY, 3)
WHOLE = body(EVERY, DATA, note())


def take(whole: bytes, cuts: list[int]) -> tuple[TransferParser, bytes]:
    found, tensors, start = TransferParser(), b"", 0
    for cut in [*sorted(cuts), len(whole)]:
        tensors += b"".join(found.feed(memoryview(whole[start:cut])))
        start = cut
    found.close()
    return found, tensors


@given(st.lists(st.integers(0, len(WHOLE)), max_size=20))
def test_a_body_is_the_same_wherever_it_is_cut(cuts: list[int]) -> None:
    found, tensors = take(WHOLE, cuts)
    assert (found.layout, found.document) == (EVERY, note())
    assert tensors == DATA.tobytes()
    assert found.size == len(WHOLE)


@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 255))
def test_a_flipped_byte_is_always_found(place: int, change: int) -> None:
    broken = bytearray(WHOLE)
    broken[place] ^= change
    with pytest.raises(UpdateRefused):
        take(bytes(broken), [])


@given(st.integers(0, len(WHOLE) - 1))
def test_half_a_body_is_refused(length: int) -> None:
    with pytest.raises(UpdateRefused, match="ended before"):
        take(WHOLE[:length], [])


def test_more_than_announced_is_refused() -> None:
    with pytest.raises(UpdateRefused) as refused:
        take(WHOLE + b"x", [])
    assert refused.value.refusal is RefusalReason.SIZE


def test_a_wrong_checksum_is_told() -> None:
    with pytest.raises(UpdateRefused) as refused:
        take(WHOLE[:-4] + zlib.crc32(b"other").to_bytes(4, "little"), [])
    assert refused.value.refusal is RefusalReason.CHECKSUM


def test_a_claimed_header_is_not_allocated() -> None:
    tracemalloc.start()
    try:
        list(TransferParser().feed(memoryview(HEADER_BYTES.to_bytes(8, "little") + b"{")))
        assert tracemalloc.get_traced_memory()[1] < 100_000
        with pytest.raises(UpdateRefused, match="are the most") as refused:
            list(TransferParser().feed(memoryview((HEADER_BYTES + 1).to_bytes(8, "little"))))
    finally:
        tracemalloc.stop()
    assert refused.value.refusal is RefusalReason.HEADER


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(UpdateRefused):
        take(data, [])
