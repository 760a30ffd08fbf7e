"""How many requests may be under way at once: as many as the API server takes, in fair turns.

A constant client limit is either the bottleneck or a flood. This limit starts moderate, grows by
one for each window of answers, and halves when the server says it is too much (additive increase,
multiplicative decrease, as TCP does). Two lanes take turns, so that status writes, which people
wait for, never queue behind a burst of creations.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import IntEnum


class Priority(IntEnum):
    """Who waits with whom."""

    WORK = 0
    STATUS = 1


class Throttle:
    """An adaptive limit on concurrent requests with two lanes that take turns.

    One process of Python sends well under 1,000 requests a second, which at 15 ms each are 15 under
    way; more would only lie in the API server's queues, and each connection holds 256 KiB for TLS.
    """

    def __init__(self, start: int = 16, floor: int = 2, ceiling: int = 16) -> None:
        self._limit = float(start)
        self._floor, self._ceiling = floor, ceiling
        self._under_way = 0
        self._waiting: tuple[deque[asyncio.Future[None]], ...] = (deque(), deque())
        self._turn = Priority.STATUS

    @property
    def limit(self) -> int:
        """Requests that may be under way now."""
        return int(self._limit)

    @asynccontextmanager
    async def slot(self, lane: Priority) -> AsyncIterator[None]:
        """Hold one request's place; waits while the limit is reached."""
        await self._enter(lane)
        try:
            yield
        finally:
            self._under_way -= 1
            self._wake()

    def accepted(self) -> None:
        """The server took a request: one more at a time after `limit` of them."""
        self._limit = min(self._ceiling, self._limit + 1 / self._limit)

    def refused(self) -> None:
        """The server answered 429 or is overloaded: half as many."""
        self._limit = max(self._floor, self._limit / 2)

    async def _enter(self, lane: Priority) -> None:
        if self._under_way < self.limit and not any(self._waiting):
            self._under_way += 1
            return
        place = asyncio.get_running_loop().create_future()
        self._waiting[lane].append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._under_way -= 1
                self._wake()
            raise

    def _wake(self) -> None:
        while self._under_way < self.limit and (place := self._next()) is not None:
            self._under_way += 1
            place.set_result(None)

    def _next(self) -> asyncio.Future[None] | None:
        for lane in (self._turn, Priority(1 - self._turn)):
            queue = self._waiting[lane]
            while queue:
                place = queue.popleft()
                if not place.done():
                    self._turn = Priority(1 - lane)
                    return place
        return None
