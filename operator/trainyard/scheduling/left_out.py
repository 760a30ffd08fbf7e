"""Workers that alone cannot take part, while others train: their resources are given back.

The others go on, with fewer workers, until it is time to try again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from trainyard.api.reasons import Reason
from trainyard.api.status import worker_indices
from trainyard.scheduling.basis import TriedAgainLater, WorkersUnfit
from trainyard.scheduling.proposal import Proposal
from trainyard.scheduling.request import JobRequest, UnfitWorker


def leave_out(job: JobRequest, now: datetime) -> Proposal | None:
    """Go on without the workers that cannot take part, never below the minimum; None if all can."""
    current = job.admitted_workers
    unfit = _leaving(job, now)
    if not unfit:
        return None
    size = current - len(unfit)
    indices = tuple(worker.index for worker in unfit)
    return Proposal(
        workers=size,
        at_least=size,
        reason=Reason.LEFT_OUT,
        basis=WorkersUnfit(indices=indices, workers=current, message=unfit[0].message),
        is_mandatory=True,
    )


def limit_to_fit(job: JobRequest, proposal: Proposal, now: datetime) -> Proposal:
    """The proposal, but no growth while workers are left out: one more may meet the same node."""
    current, unfit = job.admitted_workers, _unfit(job, now)
    waiting = [unfit[index].retry_at for index in job.left_out if index in unfit]
    if not waiting or proposal.workers <= current:
        return proposal
    retry_at = min(waiting)
    return replace(
        proposal,
        workers=current,
        at_least=current,
        reason=Reason.LEFT_OUT,
        basis=TriedAgainLater(pending=proposal.basis, retry_at=retry_at),
        curve=None,
        requeue_at=min(retry_at, proposal.requeue_at or retry_at),
    )


def remember_left_out(
    job: JobRequest, workers: int, reason: Reason, now: datetime
) -> tuple[int, ...]:
    """The indices left out after a decision; those due to be tried again come first in a growth."""
    current = job.admitted_workers
    if not workers or not current:
        return ()
    if reason is Reason.LEFT_OUT and workers < current:
        leaving = [worker.index for worker in _leaving(job, now)][: current - workers]
        return tuple(sorted({*job.left_out, *leaving}))
    unfit = _unfit(job, now)
    due = [index for index in job.left_out if index not in unfit][: max(workers - current, 0)]
    return tuple(index for index in job.left_out if index not in due)


def _leaving(job: JobRequest, now: datetime) -> list[UnfitWorker]:
    """The unfit workers that the present decision still has, as many as it can do without."""
    current = job.admitted_workers
    unfit, members = _unfit(job, now), worker_indices(current, job.left_out)
    leaving = [unfit[index] for index in members if index in unfit]
    return leaving[: max(current - job.min_workers, 0)]


def _unfit(job: JobRequest, now: datetime) -> Mapping[int, UnfitWorker]:
    return {worker.index: worker for worker in job.unfit if now < worker.retry_at}
