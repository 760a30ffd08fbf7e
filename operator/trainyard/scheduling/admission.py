"""Which waiting jobs start: the order of the queue, and whether a job's minimum fits as a gang.

GPUs go to waiting jobs before admitted ones grow.
"""

from __future__ import annotations

from datetime import datetime

from trainyard.api.reasons import Reason
from trainyard.scheduling.capacity import Ledger, PodShape
from trainyard.scheduling.decision import Decision
from trainyard.scheduling.facts import (
    Facts,
    GpuRequest,
    StartTimedOut,
    WorkersAdmitted,
    WorkersDoNotFit,
    WorkersWaiting,
)
from trainyard.scheduling.request import JobRequest


def queue_position(job: JobRequest) -> tuple[int, datetime, tuple[str, str, str]]:
    """Sort key of the queue: priority (higher first), then age, then name, so that none tie."""
    return -job.priority, job.created_at, (job.key.namespace, job.key.name, job.key.kind)


def admit(job: JobRequest, ledger: Ledger, now: datetime) -> Decision:
    """Admit the job with as many of its requested workers as fit; it waits if its minimum does not.

    To be called in queue order. The order is strict node by node: a waiting job reserves every
    node that it could use, and no later job is placed there; others pass it on nodes or resources
    that it could not use. Backfilling would need to know how long jobs run, to guarantee that the
    waiting one is not delayed; nobody knows that, and without it an endless stream of small jobs
    starves a large one. It reserves all of its nodes rather than just enough of them, because
    kube-scheduler picks the node: it would put a small job on a reserved one.

    Jobs that would not fit even on empty ready nodes reserve nothing: nobody gains if others wait
    with them. Neither do jobs that back off after a start that timed out, and CPU jobs.
    """
    if job.backoff_until is not None and job.backoff_until > now:
        return _back_off(job, job.backoff_until)
    if job.gpus_per_worker == 0:
        return _start(job, job.requested_workers)
    shape = PodShape.of(job)
    if ledger.candidates(shape).capacity < job.min_workers:
        return _does_not_fit(job, shape, ledger)
    if ledger.slots(shape) >= job.min_workers:
        return _start(job, ledger.take(shape, job.requested_workers))
    decision = _wait_for_gpus(job, shape, ledger)
    if ledger.candidates(shape).ready_capacity >= job.min_workers:
        ledger.reserve(shape)
    return decision


def _start(job: JobRequest, workers: int) -> Decision:
    return Decision(
        workers=workers,
        recommended=workers,
        reason=Reason.ADMITTED,
        facts=WorkersAdmitted(request=GpuRequest.of(job, workers), desired=job.requested_workers),
    )


def _wait_for_gpus(job: JobRequest, shape: PodShape, ledger: Ledger) -> Decision:
    candidates = ledger.candidates(shape)
    facts = WorkersWaiting(
        minimum=GpuRequest.of(job, job.min_workers),
        availability=ledger.availability(shape),
        unready_nodes=candidates.matching - len(candidates.ready),
    )
    would_fit = ledger.slots(shape, include_reserved=True) >= job.min_workers
    return _wait(Reason.WAITING_IN_QUEUE if would_fit else Reason.WAITING_FOR_GPUS, facts)


def _does_not_fit(job: JobRequest, shape: PodShape, ledger: Ledger) -> Decision:
    candidates = ledger.candidates(shape)
    facts = WorkersDoNotFit(
        minimum=GpuRequest.of(job, job.min_workers),
        matching_nodes=candidates.matching,
        capacity=candidates.capacity,
    )
    return _wait(Reason.NO_SUCH_NODES, facts)


def _back_off(job: JobRequest, until: datetime) -> Decision:
    facts = StartTimedOut(minimum=GpuRequest.of(job, job.min_workers), requeue_at=until)
    return _wait(Reason.START_TIMED_OUT, facts, requeue_at=until)


def _wait(reason: Reason, facts: Facts, *, requeue_at: datetime | None = None) -> Decision:
    return Decision(workers=0, recommended=0, reason=reason, facts=facts, requeue_at=requeue_at)
