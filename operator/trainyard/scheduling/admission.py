"""Which waiting jobs start: the order of the queue, and whether a job's minimum fits as a gang.

What is free goes to waiting jobs before admitted ones grow.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from trainyard.api.reasons import Reason
from trainyard.scheduling.capacity import Ledger
from trainyard.scheduling.decision import Decision
from trainyard.scheduling.facts import (
    Facts,
    PodsRequest,
    StartTimedOut,
    WorkersAdmitted,
    WorkersDoNotFit,
    WorkersWaiting,
)
from trainyard.scheduling.request import JobRequest
from trainyard.scheduling.shapes import PodShape


def queue_position(job: JobRequest) -> tuple[int, datetime, tuple[str, str, str]]:
    """Sort key of the queue: priority (higher first), then age, then name, so that none tie.

    A job whose start failed is as old as that failure: it stands behind its equals of that moment.
    """
    queued_at = max(job.created_at, job.last_failed_start or job.created_at)
    return -job.priority, queued_at, (job.key.namespace, job.key.name, job.key.kind)


def admit(job: JobRequest, ledger: Ledger, now: datetime) -> Decision:
    """Admit the job with as many of its requested workers as fit; it waits if its minimum does not.

    To be called in queue order. The order is strict node by node: a waiting job reserves every
    node that it could use, and no later job is placed there; others pass it on nodes or resources
    that it could not use. Backfilling would need to know how long jobs run, to guarantee that the
    waiting one is not delayed; nobody knows that, and without it an endless stream of small jobs
    starves a large one. It reserves all of its nodes rather than just enough of them, because
    kube-scheduler picks the node: it would put a small job on a reserved one.

    Jobs that would not fit if no other job ran reserve nothing: what pods of others hold may never
    become free, and nobody gains if others wait with them. Neither do jobs that back off after a
    start that timed out.
    """
    if job.backoff_until is not None and job.backoff_until > now:
        return _back_off(job, job.backoff_until)
    candidates = ledger.candidates(job.shape)
    if candidates.capacity < job.min_workers:
        return _does_not_fit(job, ledger)
    mark = ledger.mark()
    if job.coordinator is not None:
        # Its node may not exist yet: pods that wait make a cluster grow. It holds up no worker.
        ledger.take(job.coordinator, 1)
    if ledger.slots(job.shape) >= job.min_workers:
        return _start(job, ledger.take(job.shape, job.requested_workers, owner=job.key))
    ledger.undo(mark)
    decision = _wait_for_resources(job, ledger)
    if candidates.attainable_capacity >= job.min_workers:
        ledger.reserve(job.shape, job.min_workers)
    return decision


def _start(job: JobRequest, workers: int) -> Decision:
    return Decision(
        workers=workers,
        recommended=workers,
        reason=Reason.ADMITTED,
        facts=WorkersAdmitted(request=PodsRequest.of(job, workers), desired=job.requested_workers),
    )


def _wait_for_resources(job: JobRequest, ledger: Ledger) -> Decision:
    shape, needed = job.shape, job.min_workers
    candidates = ledger.candidates(shape)
    is_blocked = candidates.attainable_capacity < needed <= candidates.ready_capacity
    facts = WorkersWaiting(
        minimum=PodsRequest.of(job, needed),
        availability=ledger.availability(shape),
        unready_nodes=candidates.matching - len(candidates.ready),
        in_the_way=ledger.usage.in_the_way(shape) if is_blocked else (),
        refused_class=job.refused_class,
    )
    return _wait(waiting_reason({shape: needed}, ledger), facts)


def waiting_reason(pods: Mapping[PodShape, int], ledger: Ledger) -> Reason:
    """Why pods that do not fit now have to wait, by number and shape."""
    if all(ledger.slots(shape, include_reserved=True) >= n for shape, n in pods.items()):
        return Reason.WAITING_IN_QUEUE
    if all(ledger.slots_by_accelerators(s) >= n for s, n in pods.items() if s.accelerators):
        return Reason.WAITING_FOR_RESOURCES
    return Reason.WAITING_FOR_GPUS


def _does_not_fit(job: JobRequest, ledger: Ledger) -> Decision:
    candidates = ledger.candidates(job.shape)
    facts = WorkersDoNotFit(
        minimum=PodsRequest.of(job, job.min_workers),
        matching_nodes=candidates.matching,
        capacity=candidates.capacity,
    )
    return _wait(Reason.NO_SUCH_NODES, facts)


def _back_off(job: JobRequest, until: datetime) -> Decision:
    facts = StartTimedOut(minimum=PodsRequest.of(job, job.min_workers), requeue_at=until)
    return _wait(Reason.START_TIMED_OUT, facts, requeue_at=until)


def _wait(reason: Reason, facts: Facts, *, requeue_at: datetime | None = None) -> Decision:
    return Decision(workers=0, recommended=0, reason=reason, facts=facts, requeue_at=requeue_at)
