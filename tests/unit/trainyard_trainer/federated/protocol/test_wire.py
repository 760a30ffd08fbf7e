"""Bodies are parsed in any chunks, and nothing broken passes."""

import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.trainyard_trainer.federated.models import EVERY, body, metadata, random_model
from trainyard_trainer.contract.federated import RefusalReason
from trainyard_trainer.federated.protocol.layout import MAX_HEADER_BYTES
from trainyard_trainer.federated.protocol.wire import TransferParser, UpdateRefused

DATA = random_model(EVERY, 3)
BODY = body(EVERY, DATA, metadata())


def parse(body_bytes: bytes, cuts: list[int]) -> tuple[TransferParser, bytes]:
    parser, tensors, start = TransferParser(), b"", 0
    for cut in [*sorted(cuts), len(body_bytes)]:
        tensors += b"".join(parser.feed(memoryview(body_bytes[start:cut])))
        start = cut
    parser.close()
    return parser, tensors


@given(st.lists(st.integers(0, len(BODY)), max_size=20))
def test_a_body_parses_the_same_in_any_chunks(cuts: list[int]) -> None:
    parser, tensors = parse(BODY, cuts)
    assert (parser.layout, parser.document) == (EVERY, metadata())
    assert tensors == DATA.tobytes()
    assert parser.size == len(BODY)


@given(st.integers(0, len(BODY) - 1), st.integers(1, 255))
def test_a_flipped_byte_is_always_detected(index: int, change: int) -> None:
    broken = bytearray(BODY)
    broken[index] ^= change
    with pytest.raises(UpdateRefused):
        parse(bytes(broken), [])


@given(st.integers(0, len(BODY) - 1))
def test_a_truncated_body_is_refused(length: int) -> None:
    with pytest.raises(UpdateRefused, match="ended before"):
        parse(BODY[:length], [])


def test_more_bytes_than_announced_are_refused() -> None:
    with pytest.raises(UpdateRefused) as refused:
        parse(BODY + b"x", [])
    assert refused.value.reason is RefusalReason.SIZE


def test_a_wrong_checksum_is_refused() -> None:
    with pytest.raises(UpdateRefused) as refused:
        parse(BODY[:-4] + zlib.crc32(b"other").to_bytes(4, "little"), [])
    assert refused.value.reason is RefusalReason.CHECKSUM


def test_an_announced_header_is_not_allocated() -> None:
    tracemalloc.start()
    try:
        list(TransferParser().feed(memoryview(MAX_HEADER_BYTES.to_bytes(8, "little") + b"{")))
        assert tracemalloc.get_traced_memory()[1] < 100_000
        with pytest.raises(UpdateRefused, match="are allowed") as refused:
            list(TransferParser().feed(memoryview((MAX_HEADER_BYTES + 1).to_bytes(8, "little"))))
    finally:
        tracemalloc.stop()
    assert refused.value.reason is RefusalReason.HEADER


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(UpdateRefused):
        parse(data, [])
