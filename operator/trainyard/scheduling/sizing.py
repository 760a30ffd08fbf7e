"""The size that an admitted job should have: by its bounds, its policy and the nodes that exist."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import assert_never

from trainyard.api.reasons import Reason
from trainyard.scheduling.basis import (
    Basis,
    BoundsChanged,
    PolicyUnavailable,
    ReplicasRequested,
    WorkersUnplaceable,
)
from trainyard.scheduling.capacity import Ledger
from trainyard.scheduling.left_out import leave_out, limit_to_fit
from trainyard.scheduling.placement import Overdue, limit_to_placed, shrink_to_placed
from trainyard.scheduling.proposal import Proposal, SchedulerSettings
from trainyard.scheduling.provisioning import await_nodes
from trainyard.scheduling.request import JobRequest
from trainyard.scheduling.throughput import propose


def desired_size(
    job: JobRequest,
    unbound: int,
    overdue: Overdue,
    ledger: Ledger,
    now: datetime,
    settings: SchedulerSettings,
) -> Proposal:
    """What an admitted job of workers should have.

    `unbound` of its workers have no node yet, and of these `overdue` should have had one.
    """
    proposal = _preference(job, now, settings)
    if proposal.workers < job.admitted_workers:
        return proposal
    return (
        await_nodes(job, unbound, now, settings)
        or leave_out(job, now)
        or shrink_to_placed(job, overdue)
        or _shrink_to_fit(job, unbound, ledger, now, settings)
        or limit_to_placed(job, limit_to_fit(job, proposal, now), now)
    )


def _preference(job: JobRequest, now: datetime, settings: SchedulerSettings) -> Proposal:
    """What the job should have by its bounds and its policy.

    Bounds and `replicas` are set by people: they apply at once, whatever the mode, the cooldown
    and the metrics are.
    """
    current = job.admitted_workers
    bounded = max(job.min_workers, min(current, job.max_workers))
    if bounded != current:
        bounds = BoundsChanged(min_workers=job.min_workers, max_workers=job.max_workers)
        return _mandatory(job, bounded, Reason.BOUNDS_CHANGED, bounds)
    match job.policy:
        case "Manual":
            return _requested(job)
        case "Throughput" if job.mode == "Recommend" and job.requested_workers != current:
            return _requested(job)  # people apply recommendations themselves
        case "Throughput":
            return propose(job, now, settings)
        case "Goodput":
            basis = PolicyUnavailable(policy=job.policy)
            return Proposal(workers=current, at_least=current, reason=Reason.STEADY, basis=basis)
        case _:
            assert_never(job.policy)


def _requested(job: JobRequest) -> Proposal:
    size = job.requested_workers
    reason = Reason.STEADY if size == job.admitted_workers else Reason.REQUESTED
    return _mandatory(job, size, reason, ReplicasRequested(replicas=size))


def _mandatory(job: JobRequest, workers: int, reason: Reason, basis: Basis) -> Proposal:
    return Proposal(
        workers=workers,
        at_least=min(workers, job.admitted_workers + 1),
        reason=reason,
        basis=basis,
        is_mandatory=True,
    )


def _shrink_to_fit(
    job: JobRequest, unbound: int, ledger: Ledger, now: datetime, settings: SchedulerSettings
) -> Proposal | None:
    """Give up workers that would not fit even if this job had all free GPUs to itself.

    Their nodes are lost, or taken by pods of others. A fresh decision has `bind_timeout` to be
    placed; a node that dies under an old one shrinks the job at once, as the surviving workers
    train on anyway. A job never shrinks below its minimum: it waits, and what it could use is kept.
    """
    current = job.admitted_workers
    if not unbound or current <= job.min_workers:
        return None
    unplaceable = unbound - ledger.slots(job.shape)
    if unplaceable <= 0:
        return None
    decision_time = job.decision_time or job.admitted_at
    give_up_at = decision_time + settings.bind_timeout if decision_time else now
    lost = WorkersUnplaceable(unplaceable=unplaceable, workers=current, give_up_at=None)
    if now >= give_up_at:
        size = max(job.min_workers, current - unplaceable)
        return _mandatory(job, size, Reason.SHRINK_NODES_LOST, lost)
    kept = _mandatory(job, current, Reason.NO_FREE_GPUS, replace(lost, give_up_at=give_up_at))
    return replace(kept, at_least=current, requeue_at=give_up_at)
