"""Waiting for a condition, never for a time: each wait has a deadline and says what it was for."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

from tools.localcluster.errors import ClusterError

_POLL_SECONDS = 0.1


def wait_for(
    what: str,
    is_so: Callable[[], bool],
    timeout: timedelta,
    explain: Callable[[], str] = str,
) -> None:
    """Return as soon as `is_so` does; after the deadline raise with what `explain` knows."""
    deadline = time.monotonic() + timeout.total_seconds()
    while not is_so():
        if time.monotonic() > deadline:
            waited = f"waited {timeout.total_seconds():.0f} s in vain for {what}"
            raise ClusterError(f"{waited}\n{explain()}".rstrip())
        time.sleep(_POLL_SECONDS)
