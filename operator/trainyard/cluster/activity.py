"""What must succeed again and again, and since when it has not."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta


class Activity:
    """Since when each source is waited for; may be read from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: dict[str, float] = {}

    def expect(self, source: str) -> None:
        """It has begun something; waiting for it goes on if it was waited for already."""
        self._since.setdefault(source, self._clock())

    def succeed(self, source: str) -> None:
        """It has succeeded, and nothing is expected of it until it begins something again."""
        self._since.pop(source, None)

    def record(self, source: str) -> None:
        """It has succeeded, and is expected to again."""
        self._since[source] = self._clock()

    def stalled(self, limit: timedelta) -> list[str]:
        """The sources that were waited for longer than this, sorted."""
        before = self._clock() - limit.total_seconds()
        return sorted(source for source, since in dict(self._since).items() if since < before)
