"""A limit on concurrent requests, with a share for each namespace and two priority levels.

How fast to send is the API server's to say: it answers 429, and the client waits (`client.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import IntEnum
from typing import NamedTuple

from trainyard.cluster.fairqueue import RoundRobin, Shares


class Priority(IntEnum):
    """The priority level of a request; each has a queue of its own."""

    WORK = 0
    STATUS = 1


SLOTS = 64
"""Each may hold a connection, with the memory that TLS takes."""
SHARE = 16
"""One Python process sends well under 1,000 requests per second, of 15 ms each: some 15 are in
flight, unless something slows them down."""


class _Waiter(NamedTuple):
    namespace: str
    admitted: asyncio.Future[None]


class Throttle:
    """A semaphore whose slots no namespace can use up.

    The priority levels alternate, so that status writes, which users wait for, never queue behind
    a burst of creations; in each of them the namespaces take turns.
    """

    def __init__(self, slots: int = SLOTS, share: int = SHARE) -> None:
        self._shares = Shares(slots, share)
        self._waiting: tuple[RoundRobin[_Waiter], ...] = (RoundRobin(), RoundRobin())
        self._preferred = Priority.STATUS

    @property
    def limit(self) -> int:
        """Maximum number of requests in flight."""
        return self._shares.slots

    @asynccontextmanager
    async def slot(self, priority: Priority, namespace: str = "") -> AsyncIterator[None]:
        """Occupy one of the slots; waits while there is none for the namespace."""
        await self._enter(priority, namespace)
        try:
            yield
        finally:
            self._leave(namespace)

    async def _enter(self, priority: Priority, namespace: str) -> None:
        if self._shares.has_slot(namespace):  # so none of the namespace waits
            self._shares.take(namespace)
            return
        admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[priority].put(namespace, _Waiter(namespace, admitted))
        try:
            await admitted
        except asyncio.CancelledError:
            if admitted.done() and not admitted.cancelled():
                self._leave(namespace)
            raise

    def _leave(self, namespace: str) -> None:
        self._shares.release(namespace)
        while (waiter := self._next()) is not None:
            self._shares.take(waiter.namespace)
            waiter.admitted.set_result(None)

    def _next(self) -> _Waiter | None:
        for priority in (self._preferred, Priority(1 - self._preferred)):
            while (waiter := self._waiting[priority].get(self._shares)) is not None:
                if not waiter.admitted.done():
                    self._preferred = Priority(1 - priority)
                    return waiter
        return None


def namespace_of(path: str) -> str:
    """The namespace in an API path; empty if it has none."""
    _, _, rest = path.partition("/namespaces/")
    return rest.partition("/")[0]
