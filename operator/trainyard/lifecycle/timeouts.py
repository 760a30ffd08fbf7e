"""Times and bounds that are the operator's, not a job's; each with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """What the rules may wait for, and how long."""

    start_timeout: timedelta = timedelta(minutes=10)
    """A gang that is not running by then gives its GPUs back: an image pull may take minutes."""
    start_backoff: timedelta = timedelta(minutes=2)
    """It then stands back so that others get a chance."""
    suspend_timeout: timedelta = timedelta(minutes=2)
    """A checkpoint takes seconds; workers that do not finish one by then are stopped without."""
    finish_grace: timedelta = timedelta(seconds=30)
    """Workers of a finished job exit by themselves; those still there afterwards are deleted."""
    metrics_interval: timedelta = timedelta(seconds=5)
    """Metrics alone change the status at most this often."""
    messages_interval: timedelta = timedelta(seconds=10)
    """Sentences alone (places in a queue) change the status of a waiting job at most this often."""
    retry_cap: timedelta = timedelta(minutes=5)
    """Longest pause between two replacements of failing pods."""
