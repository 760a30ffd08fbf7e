"""The operator's clock: steady, and compared with the API server's.

Deadlines and times to live end jobs and delete them for good. A machine whose clock jumps by a day
must not do that to every job at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from trainyard.cluster.lease import boottime

log = logging.getLogger(__name__)

MAX_SKEW = timedelta(minutes=1)
"""Above what networks, busy servers and whole seconds explain, below what deadlines are made of."""
SETTLE_SECONDS = 600.0
"""How long deadlines are kept back after both clocks have jumped: on one machine they jump
together, and a wrong time is mostly corrected within minutes."""


def utc_now() -> datetime:
    """The machine's clock."""
    return datetime.now(UTC)


class SteadyClock:
    """The machine's time at the start, and the seconds since, which no jump of its clock changes.

    If that differs from the API server's time and the machine's clock does not, as after its
    correction, the machine's time is adopted.
    """

    def __init__(
        self, wall: Callable[[], datetime] = utc_now, elapsed: Callable[[], float] = boottime
    ) -> None:
        self._wall, self._elapsed = wall, elapsed
        self._offset = wall() - timedelta(seconds=elapsed())
        self._observed = ""
        """The last date of the API server: it changes once a second, and parsing is not free."""
        self._agrees = True
        self._settled_at = float("-inf")

    @property
    def is_trusted(self) -> bool:
        """Whether it agrees with the API server's time, as far as known, and did not just jump."""
        return self._agrees and self._elapsed() >= self._settled_at

    def __call__(self) -> datetime:
        """The present moment, in UTC."""
        return self._offset + timedelta(seconds=self._elapsed())

    def observe(self, date: str) -> None:
        """Compare with the `Date` of a response that has just arrived."""
        if date == self._observed:
            return
        self._observed = date
        try:
            server = parsedate_to_datetime(date).astimezone(UTC)
        except (ValueError, OverflowError):
            return  # a proxy's, perhaps
        wall = self._wall()
        if abs(self() - server) > MAX_SKEW >= abs(wall - server):
            log.warning(
                "the clock of this machine was set from %s to %s: deadlines are enforced in %g min",
                self(),
                wall,
                SETTLE_SECONDS / 60,
            )
            self._offset = wall - timedelta(seconds=self._elapsed())
            self._settled_at = self._elapsed() + SETTLE_SECONDS
        self._compare(self() - server)

    def _compare(self, ahead: timedelta) -> None:
        agrees = abs(ahead) <= MAX_SKEW
        if agrees and not self._agrees:
            log.info("this clock and the API server's agree again")
        elif self._agrees and not agrees:
            log.warning(
                "this clock is %.0f s ahead of the API server's: no job fails by its deadline or "
                "is deleted by its time to live until they agree; synchronize both (NTP)",
                ahead.total_seconds(),
            )
        self._agrees = agrees
