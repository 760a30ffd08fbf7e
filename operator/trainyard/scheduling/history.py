"""What a job's past changes allow: its proven size, its retry pause and its changes per hour."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from trainyard.scheduling.proposal import SchedulerSettings
from trainyard.scheduling.request import JobRequest

_MAX_DOUBLINGS: Final = 3
"""In the end a size that never pays costs one try every four hours."""
HOUR: Final = timedelta(hours=1)


def is_proven(job: JobRequest, now: datetime, settings: SchedulerSettings) -> bool:
    """Whether the present size has paid before, so that only a clear loss gives it back.

    One that was given back within the retry pause is back because it clearly pays.
    """
    current = job.admitted_workers
    return job.proven_workers >= current or any(
        change.from_ == current > change.to and now - change.decision_time < settings.retry_after
        for change in job.history
    )


def trial_ends_at(job: JobRequest, settings: SchedulerSettings) -> datetime:
    """Until when a growth to the present size whose gain is not clear is measured."""
    since = job.decision_time or job.admitted_at or job.created_at
    return since + settings.trial_limit


def retry_at(job: JobRequest, settings: SchedulerSettings) -> datetime:
    """When a larger size that did not pay may be tried again.

    `retry_after` from when the job last shrank to its present size, doubled for each time before
    that; from its last change if the history does not reach back.
    """
    shrunk = times_shrunk(job)
    since = max(shrunk, default=job.decision_time or job.admitted_at or job.created_at)
    doublings = max(0, min(len(shrunk) - 1, _MAX_DOUBLINGS))
    return since + settings.retry_after * (1 << doublings)


def times_shrunk(job: JobRequest) -> list[datetime]:
    """When the job shrank from a larger size to its present one or a smaller."""
    current = job.admitted_workers
    return [change.decision_time for change in job.history if change.from_ > current >= change.to]


def changes_of_last_hour(job: JobRequest, now: datetime) -> list[datetime]:
    """When the job was rescaled, oldest first; being admitted is no rescale."""
    rescales = (change for change in job.history if change.from_ > 0 and change.to > 0)
    return sorted(change.decision_time for change in rescales if change.decision_time > now - HOUR)
