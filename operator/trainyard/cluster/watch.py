"""A watch of one collection, for objects that come by the thousand.

Each event is decoded as far as it is read, handed over, and let go before the next is taken off the
connection: however far behind the operator is, the events wait as bytes at the API server's end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, TypedDict

import aiohttp
import msgspec

from trainyard.cluster.client import ApiError, KubeClient

log = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS = 0.1
POSTPONED = (0, 429, 503)
"""Answers after which the watch goes on from where it was."""
LAST_PAUSE_SECONDS = 1.0

Take = Callable[[str, Any], None]
"""Takes `ADDED`, `MODIFIED` or `DELETED` and the object, cut down to the watch's shape."""


class _Version(TypedDict, total=False):
    resourceVersion: str


class _Mark(TypedDict, total=False):
    """What every object of a watch may have, a `Status` that ends it too."""

    metadata: _Version
    code: int
    message: str


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class Watch:
    """Follows the collection at `path` for ever, through whatever happens to the connection."""

    def __init__(
        self, client: KubeClient, path: str, shape: Any, take: Take, begun: Callable[[], None]
    ) -> None:
        """Hand each event's object to `take`, decoded as `shape`: a TypedDict of what is read.

        `begun` is called whenever the watch starts afresh: what changed before has to be listed by
        whoever hears it.
        """
        self._client, self._path = client, path
        self._take, self._begun = take, begun
        self._object = msgspec.json.Decoder(shape)
        self.has_begun = asyncio.Event()
        self._version = ""
        """The last one seen; empty: none, or one that the server no longer knows."""
        self._is_fresh = True
        """Whether something may have been missed, and nobody was told yet."""

    async def run(self) -> None:
        """Watch until cancelled; raises `ApiError` when the server refuses from the start."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            before = self._version
            try:
                await self._follow()
            except ApiError as error:
                if not (self.has_begun.is_set() or error.is_passing):
                    raise
                if error.status not in POSTPONED:
                    self._version = ""
                log.log(
                    logging.DEBUG if error.status == 410 else logging.WARNING,
                    "the watch of %s has ended: %s",
                    self._path,
                    error,
                )
            except (aiohttp.ClientError, OSError) as error:  # TimeoutError is one
                log.info("the watch of %s was cut off: %r", self._path, error)
            has_moved = self._version not in ("", before)
            pause = FIRST_PAUSE_SECONDS if has_moved else min(2 * pause, LAST_PAUSE_SECONDS)
            await asyncio.sleep(pause)

    async def _follow(self) -> None:
        """One connection, until the server ends it."""
        if not self._version:
            self._is_fresh = True
            self._version = await self._client.latest(self._path)
        async with self._client.watch(self._path, self._version) as lines:
            if self._is_fresh:
                self._is_fresh = False
                self.has_begun.set()
                self._begun()
            async for line in lines:
                if not line.endswith(b"\n"):
                    return  # a proxy closed the connection in the middle of an event
                self._read(msgspec.json.decode(line, type=_Event))

    def _read(self, event: _Event) -> None:
        mark = msgspec.json.decode(event.object, type=_Mark)
        if event.type == "ERROR":
            self._version = ""
            raise ApiError(mark.get("code", 0), "", mark.get("message", ""))
        if event.type != "BOOKMARK":
            self._hand_over(event)
        self._version = mark["metadata"]["resourceVersion"]

    def _hand_over(self, event: _Event) -> None:
        try:
            found = self._object.decode(event.object)
        except msgspec.ValidationError:
            # One that is unlike all that the API describes must not hide the others.
            log.exception("an object of %s could not be read and is passed over", self._path)
        else:
            self._take(event.type, found)
