"""Whether another kind's job has a job's name, by what this process knows of both."""

from __future__ import annotations

from trainyard.api.jobs import Job
from trainyard.api.names import namesake
from trainyard.api.validation import Rejection
from trainyard.lifecycle.namesakes import (
    name_taken_by_job,
    name_taken_by_orphans,
    name_taken_by_pods,
)
from trainyard.reconcile.dependencies import Dependencies


def name_taken(deps: Dependencies, job: Job) -> Rejection | None:
    """Why the job may not begin under its name; None if it may, or has begun."""
    if _has_begun(deps, job):
        return None
    other_key = namesake(job.key)
    other = deps.cache.jobs.get(other_key)
    if other is None:
        by_other = name_taken_by_pods(other_key, deps.cache.pods_of(other_key))
    else:
        by_other = name_taken_by_job(job, other, other_has_begun=_has_begun(deps, other))
    return by_other or name_taken_by_orphans(deps.cache.pods_of(job.key))


def _has_begun(deps: Dependencies, job: Job) -> bool:
    """Whether the job has started, or is about to: its status lags behind."""
    state = deps.job_states.get(job.key)
    is_admitted = state is not None and state.uid == job.uid and state.assignment.value.desired > 0
    return is_admitted or job.status.start_time is not None
