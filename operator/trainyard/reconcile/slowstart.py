"""Slow start: many requests of one job in growing batches, stopped by the first refusal.

A quota or a webhook that refuses one pod refuses the next thousand too, and every refused request
costs the API server, and everybody who waits for it, as much as one that succeeds. Kubernetes' own
controllers do the same (kubernetes/kubernetes#49145).
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Hashable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from trainyard.cluster.errors import ApiError

AT_ONCE = 4
"""So few requests have no slow start: most jobs are small, and would start a round trip later."""
FIRST_PAUSE = timedelta(seconds=0.5)
MAX_PAUSE = timedelta(minutes=1)
"""Pauses after refusals in a row: a quota that is raised causes no event."""


class Attempt(NamedTuple):
    """What came of requests that were sent with a slow start."""

    results: list[Any]
    refused: Mapping[Hashable, ApiError]
    """The refusals of the last batch that was sent, in its order."""

    @property
    def refusal(self) -> ApiError | None:
        """The first refusal."""
        return next(iter(self.refused.values()), None)


Requests = Mapping[Hashable, Callable[[], Awaitable[Any]]]
"""Functions that send one request each, by what tells it from the others of its job."""


async def slow_start(requests: Requests) -> Attempt:
    """Send the requests in batches of 1, 2, 4 …; none follows a batch with a refusal in it.

    A few are sent at once.
    """
    pending, size = iter(requests.items()), 1 if len(requests) > AT_ONCE else AT_ONCE
    results: list[Any] = []
    while batch := dict(itertools.islice(pending, size)):
        answers = await _settled(*(send() for send in batch.values()))
        results += [answer for answer in answers if not isinstance(answer, ApiError)]
        by_request = zip(batch, answers, strict=True)
        if refused := {k: answer for k, answer in by_request if isinstance(answer, ApiError)}:
            return Attempt(results, refused)
        size *= 2
    return Attempt(results, {})


async def _settled(*requests: Awaitable[Any]) -> list[Any]:
    """The results of all requests, or what the API server refused them with."""
    results = await asyncio.gather(*requests, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, ApiError):
            raise result
    return results


@dataclass(slots=True)
class Refusals:
    """Refusals in a row of one kind of request of one job, and until when it is not repeated.

    Events and reports have a job reconciled every few seconds, whatever the API server answered.
    """

    error: ApiError | None = None
    """The latest; None after a success."""
    retry_at: datetime | None = None
    since: datetime | None = None
    """Of the first refusal in a row."""
    _generation: int = 0
    _in_a_row: int = 0
    _refused: set[Hashable] = field(default_factory=set)

    async def attempt(self, requests: Requests, generation: int, now: datetime) -> Attempt:
        """Send the requests unless they pause; those that were refused before come last.

        So that one pod that is refused for itself holds back no other for long. A spec that has
        changed (`generation`) is tried at once.
        """
        # A longer rest is that of a clock that was set back.
        is_paused = self.retry_at is not None and now < self.retry_at <= now + MAX_PAUSE
        if requests and is_paused and generation == self._generation:
            return Attempt([], {})
        ordered = dict(sorted(requests.items(), key=lambda request: request[0] in self._refused))
        attempt = await slow_start(ordered)
        self._record(attempt, generation, now)
        return attempt

    def _record(self, attempt: Attempt, generation: int, now: datetime) -> None:
        self.error = attempt.refusal
        if self.error is None:
            self.retry_at, self.since, self._in_a_row = None, None, 0
            self._refused.clear()
            return
        self.retry_at = now + min(FIRST_PAUSE * 2 ** min(self._in_a_row, 16), MAX_PAUSE)
        if self.since is None or generation != self._generation:
            self.since = now
        self._generation = generation
        self._in_a_row += 1
        self._refused.update(attempt.refused)
