"""The last check before a request leaves the process."""

from __future__ import annotations

from collections.abc import Callable

import aiohttp
from aiohttp.abc import AbstractStreamWriter


class GuardedPayload(aiohttp.BytesPayload):
    """Calls the guard once more as the bytes go out; the headers leave with them."""

    def __init__(self, body: bytes, check: Callable[[], None]) -> None:
        super().__init__(body)
        self._check = check

    async def write_with_length(
        self, writer: AbstractStreamWriter, content_length: int | None
    ) -> None:
        """Write the body, if the guard still allows it."""
        try:
            self._check()
        except BaseException as error:
            # aiohttp writes in a task that nobody awaits: the request fails by this error, is
            # retried, and then meets the guard itself.
            raise ConnectionAbortedError(f"not sent: {error}") from error
        await super().write_with_length(writer, content_length)
