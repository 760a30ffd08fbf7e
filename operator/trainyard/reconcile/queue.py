"""The work queue: each key waits at most once, and runs again when it was touched meanwhile.

The first event of a quiet key acts at once. Under load, follow-ups of one key that come close
together settle into one run, since each run is a look at the whole job and makes those before it
pointless. Follow-ups (a pod runs now) go ahead of newcomers (a job to make pods for): they are
quick, and somebody waits for what they tell, which would else come after a burst's last job. A
newcomer that a follow-up meets in the line goes ahead with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

log = logging.getLogger(__name__)

SLACK = 64
"""Entries of the timetable that may be out of date before it is worth tidying."""

AHEAD = 8
"""Follow-ups served for each newcomer, so that neither waits for all of the other."""

Handler = Callable[[K], Awaitable["float | None"]]
"""Handles a key; returns the seconds after which to run it again, or None."""


class WorkQueue(Generic[K]):
    """Keys, a bounded number of workers, and a timetable of what is due later."""

    def __init__(
        self,
        name: str,
        handler: Handler[K],
        *,
        workers: int = 16,
        settle_seconds: float = 0.1,
        backoff_seconds: float = 0.2,
        backoff_cap_seconds: float = 60.0,
    ) -> None:
        self.name = name
        self._handler = handler
        self._workers = workers
        self._settle = settle_seconds
        self._backoff, self._backoff_cap = backoff_seconds, backoff_cap_seconds
        self._newcomers: deque[K] = deque()
        self._follow_ups: deque[K] = deque()
        self._ready = asyncio.Semaphore(0)
        self._in_a_row = 0
        """Follow-ups served since the last newcomer."""
        self._queued: dict[K, bool] = {}
        """Keys that wait, and whether among the follow-ups; an entry elsewhere is out of date."""
        self._running: set[K] = set()
        self._touched: dict[K, bool] = {}
        """Keys that were touched while they ran, and whether by follow-ups alone."""
        self._latest: deque[float] = deque(maxlen=workers)
        """When the latest runs began."""
        self._ran_at: dict[K, float] = {}
        self._failures: dict[K, int] = {}
        self._due: dict[K, float] = {}
        self._timetable: list[tuple[float, int, K]] = []
        self._order = itertools.count()
        self._alarm = asyncio.Event()

    @property
    def depth(self) -> int:
        """Keys that wait or are in work."""
        return len(self._queued) + len(self._running)

    def add(self, key: K, *, follows: bool = False) -> None:
        """Have the key handled as soon as may be; `follows` says that it is a follow-up."""
        if key in self._running:
            self._touched[key] = follows and self._touched.get(key, True)
        elif key in self._queued:
            if follows and not self._queued[key]:
                self._queued[key] = True
                self._follow_ups.append(key)
        elif follows and (wait := self._settling(key)) > 0:
            self.add_after(key, wait)
        else:
            self._enqueue(key, follows=follows)

    def add_after(self, key: K, seconds: float) -> None:
        """Have the key handled in so many seconds, or sooner if it is due sooner."""
        at = self._now() + max(seconds, 0.0)
        if at < self._due.get(key, float("inf")):
            self._due[key] = at
            heapq.heappush(self._timetable, (at, next(self._order), key))
            self._tidy()
            self._alarm.set()

    def forget(self, key: K) -> None:
        """Drop what is remembered of a key that will not come back."""
        for memory in (self._ran_at, self._failures, self._due):
            memory.pop(key, None)

    async def run(self) -> None:
        """Handle keys until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_time())
            for _ in range(self._workers):
                group.create_task(self._work())

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _settling(self, key: K) -> float:
        """Seconds to let follow-ups of this key settle: none where little is going on."""
        since = self._now() - self._settle
        if len(self._latest) < self._workers or self._latest[0] < since:
            return 0.0
        return self._ran_at.get(key, float("-inf")) - since

    def _tidy(self) -> None:
        """Drop entries that sooner ones have replaced: a far deadline is noted at every run."""
        if len(self._timetable) > 2 * len(self._due) + SLACK:
            self._timetable = [(at, next(self._order), key) for key, at in self._due.items()]
            heapq.heapify(self._timetable)

    def _enqueue(self, key: K, *, follows: bool) -> None:
        self._due.pop(key, None)
        self._queued[key] = follows
        (self._follow_ups if follows else self._newcomers).append(key)
        self._ready.release()

    def _next(self) -> K:
        while True:
            follows = bool(self._follow_ups) and (self._in_a_row < AHEAD or not self._newcomers)
            key = (self._follow_ups if follows else self._newcomers).popleft()
            if self._queued.get(key) is follows:
                break
        self._in_a_row = self._in_a_row + 1 if follows else 0
        del self._queued[key]
        return key

    async def _work(self) -> None:
        while True:
            await self._ready.acquire()
            key = self._next()
            self._running.add(key)
            self._ran_at[key] = self._now()
            self._latest.append(self._ran_at[key])
            again = await self._handle(key)
            self._running.discard(key)
            if (follows := self._touched.pop(key, None)) is not None:
                # No newcomer any more: what touched it goes ahead, and settles if it may.
                self.add(key, follows=True) if follows else self._enqueue(key, follows=True)
            if again is not None and key not in self._queued:
                self.add_after(key, again)

    async def _handle(self, key: K) -> float | None:
        try:
            again: float | None = await self._handler(key)
        except Exception as error:  # one job's trouble must not stop the others
            failures = self._failures[key] = self._failures.get(key, 0) + 1
            pause: float = min(self._backoff * 2 ** min(failures - 1, 16), self._backoff_cap)
            log.warning(
                "%s %s failed, again in %.1f s: %s",
                self.name,
                key,
                pause,
                error,
                exc_info=failures == 3,
            )
            return pause
        self._failures.pop(key, None)
        return again

    async def _keep_time(self) -> None:
        while True:
            while self._timetable and self._timetable[0][0] <= self._now():
                at, _, key = heapq.heappop(self._timetable)
                if self._due.get(key) == at:
                    del self._due[key]
                    self._release(key)
            self._alarm.clear()
            pause = self._timetable[0][0] - self._now() if self._timetable else None
            # Not `wait_for`: before Python 3.12 it loses a cancellation that meets the alarm.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._alarm.wait()

    def _release(self, key: K) -> None:
        if key in self._running:
            self._touched.setdefault(key, True)
        elif key not in self._queued:
            self._enqueue(key, follows=True)
