"""Shares of what all jobs have in common, so that none of them is everybody's trouble."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

from trainyard.api.names import Key


class NamespaceShare:
    """Runs at most so many handlers for the jobs of one namespace at once; others are queued."""

    def __init__(self, limit: int, enqueue: Callable[[Key], None]) -> None:
        """`enqueue` adds a key that has waited to the queue that runs the handlers."""
        self._limit, self._enqueue = limit, enqueue
        self._running: defaultdict[str, int] = defaultdict(int)
        self._waiting: defaultdict[str, dict[Key, None]] = defaultdict(dict)
        """In order of arrival, by namespace."""

    async def run(
        self, key: Key, handler: Callable[[Key], Awaitable[float | None]]
    ) -> float | None:
        """What the handler returns; None for a key that waits, which is enqueued in its turn."""
        namespace = key.namespace
        if self._running[namespace] >= self._limit:
            self._waiting[namespace][key] = None
            return None
        self._running[namespace] += 1
        try:
            return await handler(key)
        finally:
            self._leave(namespace)

    def _leave(self, namespace: str) -> None:
        self._running[namespace] -= 1
        if waiting := self._waiting.get(namespace):
            first = next(iter(waiting))
            del waiting[first]
            self._enqueue(first)
        if not self._running[namespace]:
            del self._running[namespace]
        if not waiting:
            self._waiting.pop(namespace, None)


class RateLimiter:
    """Hands out moments that are at least `1 / rate` apart."""

    def __init__(self, rate_per_second: float) -> None:
        self._spacing = timedelta(seconds=1 / rate_per_second)
        self._next = datetime.min.replace(tzinfo=UTC)

    def reserve(self, now: datetime) -> datetime:
        """The first moment from `now` on that nobody else has."""
        reserved = max(self._next, now)
        self._next = reserved + self._spacing
        return reserved
