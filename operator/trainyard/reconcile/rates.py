"""What all jobs have in common and none may use up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


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
