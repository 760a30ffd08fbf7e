"""The work queue: each key waits at most once, and runs again if it was added while it ran.

The first event of an idle key is handled immediately. Under load, high-priority events of one key
are debounced into one run, since each run looks at the whole job and supersedes those before it.
High priority is for events of jobs under way, such as a pod that started: they are quick to handle,
and users wait for these status updates, which would otherwise be delayed until a whole burst of new
jobs has its pods.

The keys of one group, such as the jobs of one namespace, never occupy all workers.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from enum import IntEnum
from typing import Generic, TypeVar

from trainyard.cluster.fairqueue import RoundRobin, Shares

K = TypeVar("K", bound=Hashable)

log = logging.getLogger(__name__)

MAX_STALE_DELAYS = 64
"""Stale entries of the delay heap that are tolerated before it is rebuilt."""

HIGH_PER_NORMAL = 8
"""High-priority keys handled for each normal one, so that neither kind starves the other."""

Handler = Callable[[K], Awaitable["float | None"]]
"""Handles a key; returns the seconds after which to requeue it, or None."""


class QueuePriority(IntEnum):
    """Which keys are handled first."""

    NORMAL = 0
    """Work that starts something, such as a new job."""
    HIGH = 1
    """Events of what is under way."""


class WorkQueue(Generic[K]):
    """Keys by priority, a bounded number of workers, and keys that are added after a delay."""

    def __init__(
        self,
        name: str,
        handler: Handler[K],
        *,
        workers: int = 16,
        group: Callable[[K], Hashable] = lambda key: key,
        share: int | None = None,
        debounce_seconds: float = 0.1,
        backoff_seconds: float = 0.2,
        backoff_cap_seconds: float = 60.0,
    ) -> None:
        """`share` is how many workers the keys of one group may have; half of them by default."""
        self.name = name
        self._handler = handler
        self._workers = workers
        self._group = group
        self._shares = Shares(workers, share or max(workers // 2, 1))
        self._debounce_seconds = debounce_seconds
        self._backoff, self._backoff_cap = backoff_seconds, backoff_cap_seconds
        self._waiting: dict[QueuePriority, RoundRobin[K]] = {p: RoundRobin() for p in QueuePriority}
        self._changed = asyncio.Event()
        """Set when another key may have become ready to run."""
        self._high_in_a_row = 0
        """High-priority keys handled since the last normal one."""
        self._queued: dict[K, QueuePriority] = {}
        """Keys that wait, and at which priority; their entries at another one are stale."""
        self._processing: set[K] = set()
        self._dirty: dict[K, QueuePriority] = {}
        """Keys that were added while they ran, and the lowest priority they were added with."""
        self._recent_starts: deque[float] = deque(maxlen=workers)
        """When the latest runs started."""
        self._started_at: dict[K, float] = {}
        self._failures: dict[K, int] = {}
        self._due: dict[K, float] = {}
        """Delayed keys and when they are due; their other entries of the heap are stale."""
        self._delays: list[tuple[float, int, K]] = []
        self._order = itertools.count()
        self._delays_changed = asyncio.Event()

    @property
    def depth(self) -> int:
        """Keys that wait or run."""
        return len(self._queued) + len(self._processing)

    def add(self, key: K, *, priority: QueuePriority = QueuePriority.NORMAL) -> None:
        """Enqueue the key."""
        if key in self._processing:
            self._dirty[key] = min(priority, self._dirty.get(key, QueuePriority.HIGH))
        elif key in self._queued:
            self._raise_priority(key, priority)
        elif priority is QueuePriority.HIGH and (delay := self._debounce(key)) > 0:
            self.add_after(key, delay)
        else:
            self._enqueue(key, priority)

    def add_after(self, key: K, seconds: float) -> None:
        """Enqueue the key after a delay; of several delays the one that ends first counts."""
        at = self._now() + max(seconds, 0.0)
        if at < self._due.get(key, float("inf")):
            self._due[key] = at
            heapq.heappush(self._delays, (at, next(self._order), key))
            self._drop_stale_delays()
            self._delays_changed.set()

    def forget(self, key: K) -> None:
        """Drop the history and the delay of a key that will not be added again."""
        for known in (self._started_at, self._failures, self._due):
            known.pop(key, None)

    async def run(self) -> None:
        """Handle keys until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._add_delayed())
            while True:
                while (key := self._next()) is not None:
                    self._start(group, key)
                self._changed.clear()
                await self._changed.wait()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _debounce(self, key: K) -> float:
        """Seconds to wait for more events of this key; 0 unless the queue is under load."""
        since = self._now() - self._debounce_seconds
        if len(self._recent_starts) < self._workers or self._recent_starts[0] < since:
            return 0.0
        return self._started_at.get(key, float("-inf")) - since

    def _drop_stale_delays(self) -> None:
        """Rebuild the heap once stale entries prevail: each run may replace a far deadline."""
        if len(self._delays) > 2 * len(self._due) + MAX_STALE_DELAYS:
            self._delays = [(at, next(self._order), key) for key, at in self._due.items()]
            heapq.heapify(self._delays)

    def _enqueue(self, key: K, priority: QueuePriority) -> None:
        self._due.pop(key, None)
        self._queued[key] = priority
        self._waiting[priority].put(self._group(key), key)
        self._changed.set()

    def _raise_priority(self, key: K, priority: QueuePriority) -> None:
        if priority > self._queued[key]:
            self._queued[key] = priority
            self._waiting[priority].put(self._group(key), key)
            self._changed.set()

    def _next(self) -> K | None:
        """The next key of a group that has a free worker."""
        is_normal_due = self._high_in_a_row >= HIGH_PER_NORMAL
        for priority in sorted(QueuePriority, reverse=not is_normal_due):
            waiting = self._waiting[priority]
            while (key := waiting.get(self._shares)) is not None:
                if self._queued.get(key) is priority:
                    del self._queued[key]
                    is_high = priority is QueuePriority.HIGH
                    self._high_in_a_row = self._high_in_a_row + 1 if is_high else 0
                    return key
        return None

    def _start(self, group: asyncio.TaskGroup, key: K) -> None:
        self._shares.take(self._group(key))
        self._processing.add(key)
        self._started_at[key] = self._now()
        self._recent_starts.append(self._started_at[key])
        group.create_task(self._work(key))

    async def _work(self, key: K) -> None:
        requeue_after = await self._handle(key)
        self._processing.discard(key)
        self._shares.release(self._group(key))
        self._changed.set()
        self._requeue_if_dirty(key)
        if requeue_after is not None and key not in self._queued:
            self.add_after(key, requeue_after)

    def _requeue_if_dirty(self, key: K) -> None:
        """Enqueue a key that was added while it ran, at high priority: it is under way by now."""
        match self._dirty.pop(key, None):
            case QueuePriority.HIGH:
                self.add(key, priority=QueuePriority.HIGH)
            case QueuePriority.NORMAL:
                self._enqueue(key, QueuePriority.HIGH)  # not debounced

    async def _handle(self, key: K) -> float | None:
        try:
            requeue_after: float | None = await self._handler(key)
        except Exception as error:  # one job's failure must not stop the others
            failures = self._failures[key] = self._failures.get(key, 0) + 1
            backoff: float = min(self._backoff * 2 ** min(failures - 1, 16), self._backoff_cap)
            log.warning(
                "%s of %s failed, retrying in %.1f s: %s",
                self.name,
                key,
                backoff,
                error,
                exc_info=failures == 3,
            )
            return backoff
        self._failures.pop(key, None)
        return requeue_after

    async def _add_delayed(self) -> None:
        while True:
            while self._delays and self._delays[0][0] <= self._now():
                at, _, key = heapq.heappop(self._delays)
                if self._due.get(key) == at:
                    del self._due[key]
                    self._add_due(key)
            self._delays_changed.clear()
            timeout = self._delays[0][0] - self._now() if self._delays else None
            # Not `wait_for`: before Python 3.12 it loses a cancellation that meets the event.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._delays_changed.wait()

    def _add_due(self, key: K) -> None:
        if key in self._processing:
            self._dirty.setdefault(key, QueuePriority.HIGH)
        elif key not in self._queued:
            self._enqueue(key, QueuePriority.HIGH)
