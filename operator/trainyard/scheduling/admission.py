"""Who may start: the order of the queue, and whether a job's minimum fits as a gang.

It stands apart from growth because it answers a different question, and comes first: GPUs go to
waiting jobs before running ones grow (the design, Admission).
"""

from __future__ import annotations

from datetime import datetime

from trainyard.api.reasons import Reason
from trainyard.scheduling.capacity import Ledger, PodShape
from trainyard.scheduling.request import Decision, JobRequest


def queue_position(job: JobRequest) -> tuple[int, datetime, tuple[str, str, str]]:
    """Sort key of the queue: priority (higher first), then age, then name, so that none tie."""
    return -job.priority, job.created_at, (job.key.namespace, job.key.name, job.key.kind)


def admit(job: JobRequest, ledger: Ledger, now: datetime) -> Decision:
    """Admit the job with as many of `start_workers` as fit, at least its minimum, or say why not.

    To be called in queue order. The order is strict node by node: a job that waits claims every
    node that it could use, and no later job is placed there; others pass it on nodes or resources
    that it could not use. Backfilling would need to know how long jobs run, to promise the
    waiting one that it is not delayed; nobody knows that, and without it an endless stream of
    small jobs starves a large one. It claims all of its nodes rather than just enough of them,
    because kube-scheduler picks the node: it would put a small job on one set aside.

    Jobs that no ready nodes could hold, even empty, claim nothing: nobody gains if others wait
    with them. Neither do jobs that stand back after a start that timed out, and CPU jobs.
    """
    if job.refused_until is not None and job.refused_until > now:
        return _stands_back(job, job.refused_until)
    wanted = max(job.min_workers, min(job.start_workers, job.max_workers))
    if job.gpus_per_worker == 0:
        return _starts(job, wanted)
    shape = PodShape.of(job)
    if ledger.ground(shape).capacity < job.min_workers:
        return _fits_nowhere(job, shape, ledger)
    if ledger.slots(shape) >= job.min_workers:
        return _starts(job, ledger.take(shape, wanted))
    decision = _waits(job, shape, ledger)
    if ledger.ground(shape).ready_capacity >= job.min_workers:
        ledger.claim(shape)
    return decision


def demanded(job: JobRequest, workers: int) -> str:
    """What so many workers of the job need, in words: `4 × 2 nvidia.com/gpu with selector a=b`."""
    if job.gpus_per_worker == 0:
        return f"{workers} × no GPU"
    selector = ",".join(f"{key}={value}" for key, value in sorted(job.node_selector.items()))
    where = f" with selector {selector}" if selector else ""
    return f"{workers} × {job.gpus_per_worker} {job.resource}{where}"


def supplied(shape: PodShape, ledger: Ledger) -> str:
    """What is free for the shape, and who is before it: `3 free on 2 nodes; 1 job before it`."""
    gpus, nodes = ledger.free(shape)
    before = ledger.claims(shape)
    queue = f"; {counted(before, 'job')} before it" if before else ""
    return f"{gpus} free on {counted(nodes, 'node')}{queue}"


def counted(number: int, noun: str) -> str:
    """A number with its noun: `1 job`, `2 jobs`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _starts(job: JobRequest, workers: int) -> Decision:
    wanted = max(job.min_workers, min(job.start_workers, job.max_workers))
    short = f", of {wanted} wanted" if workers < wanted else ""
    return Decision(
        workers=workers,
        recommended=workers,
        reason=Reason.ADMITTED,
        message=f"admitted with {counted(workers, 'worker')} ({demanded(job, workers)}){short}",
    )


def _waits(job: JobRequest, shape: PodShape, ledger: Ledger) -> Decision:
    would_fit = ledger.slots(shape, with_claimed=True) >= job.min_workers
    unready = ledger.ground(shape).matching - len(ledger.ground(shape).usable)
    resting = f"; {counted(unready, 'node')} that could hold it not ready" if unready else ""
    message = f"needs {demanded(job, job.min_workers)} (min); {supplied(shape, ledger)}{resting}"
    return Decision(
        workers=0,
        recommended=0,
        reason=Reason.WAITING_IN_QUEUE if would_fit else Reason.WAITING_FOR_GPUS,
        message=message,
    )


def _fits_nowhere(job: JobRequest, shape: PodShape, ledger: Ledger) -> Decision:
    ground = ledger.ground(shape)
    return Decision(
        workers=0,
        recommended=0,
        reason=Reason.NO_SUCH_NODES,
        message=(
            f"needs {demanded(job, job.min_workers)} (min); {counted(ground.matching, 'node')} "
            f"could hold such a worker by size, labels and taints, "
            f"{ground.capacity} of them in all even if empty"
        ),
    )


def _stands_back(job: JobRequest, until: datetime) -> Decision:
    return Decision(
        workers=0,
        recommended=0,
        reason=Reason.START_TIMED_OUT,
        message=(
            f"its last start did not get {demanded(job, job.min_workers)} running in time; "
            f"it queues again at {until:%H:%M:%S}"
        ),
        requeue_at=until,
    )
