"""The body of a transfer, taken apart as its bytes come: header, tensors, checksum.

It stands apart, and does no I/O, so that whatever carries the bytes (an event loop now, threads
with blocking sockets later) shares one strict parser. A body is a safetensors file and its CRC-32.
Nothing is allocated because a header claims it: a header is gathered as it arrives, up to a limit.

The checksum is there for what TLS does not cover: proxies that end it, memory, our own mistakes.
CRC-32 is enough for those, and twice as fast as SHA-256 (2.1 against 1.1 GB/s on one core).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any, Final

from trainyard_trainer.contract.federated import RefusalReason
from trainyard_trainer.federated.protocol.layout import (
    HEADER_BYTES,
    LENGTH_BYTES,
    Layout,
    MalformedLayout,
    parse,
)

CHECKSUM_BYTES: Final = 4


class UpdateRefused(Exception):
    """An update that is not taken, with the reason that metrics count it under."""

    def __init__(self, refusal: RefusalReason, message: str) -> None:
        """`message` says in a sentence what is wrong with the update."""
        super().__init__(message)
        self.refusal = refusal


def trailer(checksum: int) -> bytes:
    """The end of a body whose bytes so far have this CRC-32."""
    return checksum.to_bytes(CHECKSUM_BYTES, "little")


class TransferParser:
    """Takes a body apart."""

    def __init__(self) -> None:
        """Nothing has come yet."""
        self.layout: Layout | None = None
        self.document: dict[str, Any] = {}
        self.header_size = 0
        """Bytes of length and header, once both are there."""
        self._head = bytearray()
        self._left = 0
        self._tail = bytearray()
        self._checksum = 0

    @property
    def size(self) -> int:
        """Bytes of the whole body, once the header is there."""
        assert self.layout is not None  # noqa: S101 -- asked for after the header
        return self.header_size + self.layout.size + CHECKSUM_BYTES

    def feed(self, data: memoryview) -> Iterator[memoryview]:
        """Take the next bytes; yields those that belong to tensors. Raises Refused."""
        if self.layout is None:
            data = self._take_header(data)
        if self.layout is None:
            return
        piece, data = data[: self._left], data[self._left :]
        if piece:
            self._left -= len(piece)
            self._checksum = zlib.crc32(piece, self._checksum)
            yield piece
        self._tail += data[: CHECKSUM_BYTES + 1]
        if len(self._tail) > CHECKSUM_BYTES:
            raise UpdateRefused(RefusalReason.SIZE, "more bytes came than the header announced")

    def close(self) -> None:
        """The body has ended; raises Refused when it is not whole."""
        if self.layout is None or self._left or len(self._tail) < CHECKSUM_BYTES:
            raise UpdateRefused(
                RefusalReason.SIZE, "the body ended before all that its header announced"
            )
        if bytes(self._tail) != trailer(self._checksum):
            raise UpdateRefused(
                RefusalReason.CHECKSUM, "the body does not have the checksum at its end"
            )

    def _take_header(self, data: memoryview) -> memoryview:
        """Gather the header; the bytes after it."""
        data = self._gather(data, LENGTH_BYTES)
        if len(self._head) < LENGTH_BYTES:
            return data
        length = int.from_bytes(self._head[:LENGTH_BYTES], "little")
        if length > HEADER_BYTES:
            raise UpdateRefused(
                RefusalReason.HEADER, f"its header has {length} bytes; {HEADER_BYTES} are the most"
            )
        data = self._gather(data, LENGTH_BYTES + length)
        if len(self._head) == LENGTH_BYTES + length:
            self._begin()
        return data

    def _gather(self, data: memoryview, until: int) -> memoryview:
        missing = max(0, until - len(self._head))
        self._head += data[:missing]
        return data[missing:]

    def _begin(self) -> None:
        try:
            self.layout, self.document = parse(bytes(self._head[LENGTH_BYTES:]))
        except MalformedLayout as error:
            raise UpdateRefused(RefusalReason.HEADER, str(error)) from None
        self.header_size, self._left = len(self._head), self.layout.size
        self._checksum = zlib.crc32(self._head)
        self._head.clear()
