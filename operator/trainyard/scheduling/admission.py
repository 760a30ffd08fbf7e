"""Which waiting jobs start: the order of the queue, and whether a job's minimum fits as a gang.

What is free goes to waiting jobs before admitted ones grow.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from trainyard.api.reasons import Reason
from trainyard.api.status import Provisioning
from trainyard.scheduling.capacity import Ledger
from trainyard.scheduling.decision import Decision
from trainyard.scheduling.facts import (
    Facts,
    PodsRequest,
    StartTimedOut,
    WorkersAdmitted,
    WorkersDoNotFit,
    WorkersProvisioning,
    WorkersWaiting,
)
from trainyard.scheduling.placement import largest_size
from trainyard.scheduling.provisioning import PoolCapacity, paused_pool
from trainyard.scheduling.request import JobRequest
from trainyard.scheduling.shapes import PodShape


def queue_position(job: JobRequest) -> tuple[int, datetime, tuple[str, str, str]]:
    """Sort key of the queue: priority (higher first), then time in it, then name, so that none tie.

    A job that was suspended for a month has not waited for a month, and one whose start failed
    stands behind its equals of that moment.
    """
    queued_at = max(job.queued_at, job.last_failed_start or job.queued_at)
    return -job.priority, queued_at, (job.key.namespace, job.key.name, job.key.kind)


def admit(
    job: JobRequest, ledger: Ledger, now: datetime, pools: PoolCapacity | None = None
) -> Decision:
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
    is_possible = candidates.capacity >= job.min_workers
    if is_possible:
        mark = ledger.mark()
        if job.coordinator is not None:
            # Its node may not exist yet: pods that wait make a cluster grow. It holds up no worker.
            ledger.take(job.coordinator, 1)
        if ledger.slots(job.shape) >= job.min_workers:
            workers = min(job.requested_workers, largest_size(job, now))
            return _start(job, ledger.take(job.shape, workers, owner=job.key))
        ledger.undo(mark)
    if pools is not None and (decision := _provision(job, ledger, pools, now)) is not None:
        return decision
    if not is_possible:
        return _does_not_fit(job, ledger, now)
    decision = _wait_for_resources(job, ledger, now)
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


def _provision(
    job: JobRequest, ledger: Ledger, pools: PoolCapacity, now: datetime
) -> Decision | None:
    """Admit the minimum on nodes that a pool has yet to add; None where none can.

    Its pods go wherever kube-scheduler finds a place, so that it waits while any is reserved.
    """
    shape, free = job.shape, ledger.slots(job.shape)
    if paused_pool(job, now) or ledger.slots(shape, include_reserved=True) > free:
        return None
    if (found := pools.take(shape, job.min_workers - free)) is None:
        return None
    pool, nodes = found
    ledger.take(shape, free, owner=job.key)
    give_up_at = now + pools.timeout
    request = PodsRequest.of(job, job.min_workers)
    return Decision(
        workers=job.min_workers,
        recommended=job.min_workers,
        reason=Reason.PROVISIONING,
        facts=WorkersProvisioning(minimum=request, pool=pool, nodes=nodes, give_up_at=give_up_at),
        provisioning=Provisioning(
            pool=pool, attempts=job.provisioning.attempts if job.provisioning else 0
        ),
        requeue_at=give_up_at,
    )


def _wait_for_resources(job: JobRequest, ledger: Ledger, now: datetime) -> Decision:
    shape, needed = job.shape, job.min_workers
    candidates = ledger.candidates(shape)
    is_blocked = candidates.attainable_capacity < needed <= candidates.ready_capacity
    facts = WorkersWaiting(
        minimum=PodsRequest.of(job, needed),
        availability=ledger.availability(shape),
        unready_nodes=candidates.matching - len(candidates.ready),
        in_the_way=ledger.usage.in_the_way(shape) if is_blocked else (),
        refused_class=job.refused_class,
        provisioning=paused_pool(job, now),
    )
    return _wait_for(job, waiting_reason({shape: needed}, ledger), facts, now)


def _wait_for(job: JobRequest, reason: Reason, facts: Facts, now: datetime) -> Decision:
    """Wait; a pool that added no nodes is asked again when its pause is over."""
    paused = paused_pool(job, now)
    if paused is None:
        return _wait(reason, facts)
    return _wait(Reason.NOT_PROVISIONED, facts, requeue_at=paused.retry_time)


def waiting_reason(pods: Mapping[PodShape, int], ledger: Ledger) -> Reason:
    """Why pods that do not fit now have to wait, by number and shape."""
    if all(ledger.slots(shape, include_reserved=True) >= n for shape, n in pods.items()):
        return Reason.WAITING_IN_QUEUE
    if all(ledger.slots_by_accelerators(s) >= n for s, n in pods.items() if s.accelerators):
        return Reason.WAITING_FOR_RESOURCES
    return Reason.WAITING_FOR_GPUS


def _does_not_fit(job: JobRequest, ledger: Ledger, now: datetime) -> Decision:
    candidates = ledger.candidates(job.shape)
    facts = WorkersDoNotFit(
        minimum=PodsRequest.of(job, job.min_workers),
        matching_nodes=candidates.matching,
        capacity=candidates.capacity,
        provisioning=paused_pool(job, now),
    )
    return _wait_for(job, Reason.NO_SUCH_NODES, facts, now)


def _back_off(job: JobRequest, until: datetime) -> Decision:
    facts = StartTimedOut(minimum=PodsRequest.of(job, job.min_workers), requeue_at=until)
    return _wait(Reason.START_TIMED_OUT, facts, requeue_at=until)


def _wait(reason: Reason, facts: Facts, *, requeue_at: datetime | None = None) -> Decision:
    return Decision(workers=0, recommended=0, reason=reason, facts=facts, requeue_at=requeue_at)
