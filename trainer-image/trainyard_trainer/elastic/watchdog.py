"""How long a worker waits in the collectives of an iteration for another that may stand still."""

from __future__ import annotations

import statistics
from collections import deque
from typing import Final

from trainyard_trainer.membership.stuck import USUAL_STEPS, stuck_after
from trainyard_trainer.training.loop import CollectiveError

RECENT_STEPS: Final = 33
"""Iterations whose median duration is the usual one."""


class CollectiveWatchdog:
    """The deadline of an iteration's collectives; times are on `time.monotonic`'s clock.

    It follows the worker's own part of the iteration, so that nobody is suspected in an evaluation
    that is long for all. It doubles when the iteration is computed again: a worker that is slow
    each time gets through, and one that hangs was left out before.
    """

    def __init__(self) -> None:
        """No iteration has begun."""
        self._began = 0.0
        self._durations: deque[float] = deque(maxlen=RECENT_STEPS)
        self._factor = 1
        self._waits_since: float | None = None
        self._seconds = 0.0

    def begin(self, now: float) -> None:
        """An iteration's computation begins."""
        self._began = now

    def wait(self, least: float, now: float) -> None:
        """This worker has computed its part and waits for the others, `least` seconds or longer."""
        usual = statistics.median(self._durations) if self._durations else 0.0
        computed = USUAL_STEPS * (now - self._began)
        self._seconds = self._factor * max(stuck_after(least, usual), computed)
        self._waits_since = now

    def check(self, now: float) -> None:
        """Raise CollectiveError when this worker has waited for too long."""
        if self._waits_since is not None and now - self._waits_since > self._seconds:
            self._waits_since = None
            self._factor *= 2
            raise CollectiveError(
                f"another worker stands still: its part was awaited for {self._seconds:.0f} s"
            )

    def end(self) -> None:
        """The wait has ended, in whatever way."""
        self._waits_since = None

    def committed(self, now: float) -> None:
        """The iteration is committed."""
        self._durations.append(now - self._began)
        self._factor = 1
