"""A limit on concurrent requests that adapts to the API server, with two priority levels.

The limit halves when the server is overloaded and grows back by one per window of responses, as in
TCP (additive increase, multiplicative decrease). The priority levels alternate, so that status
writes, which users wait for, never queue behind a burst of creations.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import IntEnum


class Priority(IntEnum):
    """The priority level of a request; each has a queue of its own."""

    WORK = 0
    STATUS = 1


class Throttle:
    """An adaptive limit on concurrent requests.

    One Python process sends well under 1,000 requests per second, of 15 ms each: some 15 are in
    flight. More would only wait in the API server's queues, and each connection holds 256 KiB for
    TLS.
    """

    def __init__(self, start: int = 16, floor: int = 2, ceiling: int = 16) -> None:
        self._limit = float(start)
        self._floor, self._ceiling = floor, ceiling
        self._in_flight = 0
        self._waiting: tuple[deque[asyncio.Future[None]], ...] = (deque(), deque())
        self._preferred = Priority.STATUS

    @property
    def limit(self) -> int:
        """Maximum number of requests in flight now."""
        return int(self._limit)

    @asynccontextmanager
    async def slot(self, priority: Priority) -> AsyncIterator[None]:
        """Occupy one of the slots; waits while the limit is reached."""
        await self._enter(priority)
        try:
            yield
        finally:
            self._in_flight -= 1
            self._wake()

    def accepted(self) -> None:
        """Record a success; the limit grows by one after `limit` of them."""
        self._limit = min(self._ceiling, self._limit + 1 / self._limit)

    def refused(self) -> None:
        """Record that the server throttled a request; the limit halves."""
        self._limit = max(self._floor, self._limit / 2)

    async def _enter(self, priority: Priority) -> None:
        if self._in_flight < self.limit and not any(self._waiting):
            self._in_flight += 1
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiting[priority].append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self._in_flight -= 1
                self._wake()
            raise

    def _wake(self) -> None:
        while self._in_flight < self.limit and (waiter := self._next()) is not None:
            self._in_flight += 1
            waiter.set_result(None)

    def _next(self) -> asyncio.Future[None] | None:
        for priority in (self._preferred, Priority(1 - self._preferred)):
            queue = self._waiting[priority]
            while queue:
                waiter = queue.popleft()
                if not waiter.done():
                    self._preferred = Priority(1 - priority)
                    return waiter
        return None
