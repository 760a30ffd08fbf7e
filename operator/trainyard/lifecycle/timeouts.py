"""Times and bounds that are the operator's, not a job's; each with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long the rules wait for something, and how often a status is written."""

    start_timeout: timedelta = timedelta(minutes=10)
    """A job that is not running by then gives its GPUs back; an image pull may take minutes."""
    blocked_start_timeout: timedelta = timedelta(minutes=1)
    """The same for a start that waiting cannot bring about: what it lacks may be applied seconds
    after the job."""
    start_backoff: timedelta = timedelta(minutes=2)
    """Time until it is queued again after its first failed start; each further one doubles it."""
    max_start_backoff: timedelta = timedelta(hours=1)
    """No back-off is longer: what was missing may be there by then, and nobody tells."""
    pod_events_after: timedelta = timedelta(seconds=20)
    """Age of a pod that still does not run at which its Events are listed; most start sooner."""
    bind_timeout: timedelta = timedelta(seconds=60)
    """A job that trains without some of its workers for longer is running all the same."""
    provision_timeout: timedelta = timedelta(minutes=15)
    """Time for an autoscaler to add nodes, on top of the time to start."""
    suspend_timeout: timedelta = timedelta(minutes=2)
    """A checkpoint takes seconds; workers that have not saved one by then are stopped anyway."""
    finish_grace: timedelta = timedelta(seconds=30)
    """Workers of a finished job exit by themselves; those still there afterwards are deleted."""
    metrics_interval: timedelta = timedelta(seconds=5)
    """A status that differs only in metrics is written at most this often."""
    messages_interval: timedelta = timedelta(seconds=10)
    """A waiting job's status that differs only in messages (its place in the queue) likewise."""
    unreachable_timeout: timedelta = timedelta(minutes=1)
    """A job whose coordinator is not reached for so long is degraded."""
    replace_timeout: timedelta = timedelta(minutes=3)
    """A coordinator that is not reached for so long is replaced, once."""
    stalled_after: timedelta = timedelta(minutes=5)
    """A job that runs and makes no step for so long, or for ten usual steps, is degraded."""
    retry_cap: timedelta = timedelta(minutes=5)
    """Longest pause between two replacements of failing pods."""

    @property
    def unreachable_grace(self) -> timedelta:
        """A coordinator that is not reached for so long is more than slow."""
        return self.unreachable_timeout / 4
