"""Parses the body of a transfer as it arrives: header, tensors, checksum.

It does no I/O, so that whatever carries the bytes (an event loop, a thread with a blocking socket)
shares one strict parser. A body is a safetensors file followed by its CRC-32. Nothing is allocated
on the word of a header: the header itself is buffered as it arrives, up to a limit.

The checksum covers what TLS does not: proxies that terminate it, memory errors, our own mistakes.
CRC-32 is enough for those, and twice as fast as SHA-256 (2.1 against 1.1 GB/s on one core).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any, Final

from trainyard_trainer.contract.federated import RefusalReason
from trainyard_trainer.federated.protocol.layout import (
    LENGTH_BYTES,
    MAX_HEADER_BYTES,
    Layout,
    MalformedLayout,
    parse_header,
)

CHECKSUM_BYTES: Final = 4


class UpdateRefused(Exception):
    """An update is not accepted; `reason` labels it in the metrics."""

    def __init__(self, reason: RefusalReason, message: str) -> None:
        """`message` is a sentence about the update, for a person."""
        super().__init__(message)
        self.reason = reason


def trailer(checksum: int) -> bytes:
    """The end of a body whose preceding bytes have this CRC-32."""
    return checksum.to_bytes(CHECKSUM_BYTES, "little")


class TransferParser:
    """An incremental parser of one body."""

    def __init__(self, max_header_bytes: int = MAX_HEADER_BYTES) -> None:
        """Expect the length of the header, which must not be above `max_header_bytes`."""
        self._max_header_bytes = max_header_bytes
        self.layout: Layout | None = None
        """None until the header is complete."""
        self.document: dict[str, Any] = {}
        """The JSON document of the header, once it is complete."""
        self._header_size = 0
        self._head = bytearray()
        self._remaining = 0
        self._tail = bytearray()
        self._checksum = 0

    @property
    def size(self) -> int:
        """Bytes of the whole body, once the header is complete."""
        assert self.layout is not None  # noqa: S101 -- not asked for before
        return self._header_size + self.layout.size + CHECKSUM_BYTES

    def feed(self, data: memoryview) -> Iterator[memoryview]:
        """Take the next bytes; yields those that belong to tensors. Raises UpdateRefused."""
        if self.layout is None:
            data = self._feed_header(data)
        if self.layout is None:
            return
        piece, data = data[: self._remaining], data[self._remaining :]
        if piece:
            self._remaining -= len(piece)
            self._checksum = zlib.crc32(piece, self._checksum)
            yield piece
        self._tail += data[: CHECKSUM_BYTES + 1]
        if len(self._tail) > CHECKSUM_BYTES:
            raise UpdateRefused(
                RefusalReason.SIZE, "there are more bytes than its header announced"
            )

    def close(self) -> None:
        """The body has ended; raises UpdateRefused when it is incomplete or corrupt."""
        if self.layout is None or self._remaining or len(self._tail) < CHECKSUM_BYTES:
            raise UpdateRefused(
                RefusalReason.SIZE, "the body ended before all that its header announced"
            )
        if bytes(self._tail) != trailer(self._checksum):
            raise UpdateRefused(
                RefusalReason.CHECKSUM, "the body does not match the checksum at its end"
            )

    def _feed_header(self, data: memoryview) -> memoryview:
        """Buffer the header; returns the bytes after it."""
        data = self._buffer(data, LENGTH_BYTES)
        if len(self._head) < LENGTH_BYTES:
            return data
        length = int.from_bytes(self._head[:LENGTH_BYTES], "little")
        if length > self._max_header_bytes:
            text = f"its header has {length} bytes; at most {self._max_header_bytes} are allowed"
            raise UpdateRefused(RefusalReason.HEADER, text)
        data = self._buffer(data, LENGTH_BYTES + length)
        if len(self._head) == LENGTH_BYTES + length:
            self._parse_header()
        return data

    def _buffer(self, data: memoryview, until: int) -> memoryview:
        """Fill the header's buffer up to `until` bytes; returns what is left of `data`."""
        missing = max(0, until - len(self._head))
        self._head += data[:missing]
        return data[missing:]

    def _parse_header(self) -> None:
        try:
            self.layout, self.document = parse_header(bytes(self._head[LENGTH_BYTES:]))
        except MalformedLayout as error:
            raise UpdateRefused(RefusalReason.HEADER, str(error)) from None
        self._header_size, self._remaining = len(self._head), self.layout.size
        self._checksum = zlib.crc32(self._head)
        self._head.clear()
