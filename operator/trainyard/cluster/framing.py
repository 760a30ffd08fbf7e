"""Lines of a response, each bounded: whoever may create objects decides how long an event is.

The API server escapes a character to up to six bytes, so an object at the limit of the storage is a
line of many megabytes: more than aiohttp's own iteration over lines takes.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterable, AsyncIterator

log = logging.getLogger(__name__)

MAX_LINE_BYTES = 32 * 2**20
"""An object of etcd's default limit of 1.5 MiB is less than a third of that, however escaped."""
SHOWN_BYTES = 400
"""How much of a line is logged: its beginning names the object."""


async def bounded_lines(
    chunks: AsyncIterable[bytes], max_bytes: int = MAX_LINE_BYTES
) -> AsyncIterator[bytes]:
    """The lines without their ends; empty in the place of one that is too long.

    Bytes after the last line end are a line that was cut off, and are dropped.
    """
    pending, is_oversized = bytearray(), False
    async for chunk in chunks:
        for index, part in enumerate(chunk.split(b"\n")):
            if index:  # there is a line end before every part but the first
                yield b"" if is_oversized else bytes(pending)
                pending, is_oversized = bytearray(), False
            if is_oversized:
                continue
            pending += part
            if is_oversized := len(pending) > max_bytes:
                log.error("an event of more than %d bytes: %s…", max_bytes, shown(pending))
                pending = bytearray()


def shown(line: bytes | bytearray) -> str:
    """The beginning of a line, for the log."""
    return line[:SHOWN_BYTES].decode(errors="replace")
