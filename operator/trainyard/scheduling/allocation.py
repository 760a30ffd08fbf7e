"""The scheduler: one pure function over the whole cluster, from requests to decisions.

It merges what the other rules propose under the GPUs that exist, in this order: admitted workers
keep their GPUs; waiting jobs start in queue order; then admitted jobs grow, first those that people
asked to grow, then those that gain most per GPU. Nobody is preempted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from types import MappingProxyType
from typing import Final

from trainyard.api.cluster import Cluster
from trainyard.api.names import Key
from trainyard.api.reasons import Reason
from trainyard.scheduling.admission import admit, queue_position
from trainyard.scheduling.capacity import Ledger, contending
from trainyard.scheduling.cycle import SchedulingCycle, bound_nodes, unbound_pods
from trainyard.scheduling.decision import Allocation, Decision
from trainyard.scheduling.facts import PodsRequest, Shortage, SizeChanged, SizeKept
from trainyard.scheduling.gangs import (
    admit_gang,
    bound_parties,
    extend_gang,
    gang_shapes,
)
from trainyard.scheduling.growth import divide
from trainyard.scheduling.left_out import remember_left_out
from trainyard.scheduling.placement import (
    NONE_OVERDUE,
    Overdue,
    remember_size,
)
from trainyard.scheduling.proposal import Proposal, SchedulerSettings
from trainyard.scheduling.provisioning import PoolCapacity, is_awaiting, remember_pool
from trainyard.scheduling.request import JobRequest
from trainyard.scheduling.shapes import NodeMatcher, PodShape
from trainyard.scheduling.sizing import desired_size
from trainyard.scheduling.usage import ClusterUsage
from trainyard_trainer.contract.env import Role

__all__ = ["SchedulerSettings", "allocate"]

_DEFAULTS: Final = SchedulerSettings()
_NO_ROOM: Final[Mapping[Key, Mapping[PodShape, datetime]]] = MappingProxyType({})
MAX_PREFERRED_NODES: Final = 32
"""Nodes that a pod may prefer by name; of a job on more nodes, any choice is much like another."""
_MAX_CYCLES: Final = 4
"""Each further cycle only finds what a tighter packing makes possible; usually there are two."""


def allocate(
    jobs: Sequence[JobRequest],
    cluster: Cluster,
    now: datetime,
    *,
    settings: SchedulerSettings = _DEFAULTS,
    matcher: NodeMatcher | None = None,
    room_since: Mapping[Key, Mapping[PodShape, datetime]] = _NO_ROOM,
) -> Allocation:
    """Decide the size of every job; the result does not depend on the order of `jobs`.

    `matcher` remembers from one call to the next which nodes match which pods; `room_since` is
    that of the decisions before.

    Cycles are repeated on their own result until it is stable: a later call would pack the
    workers decided here again, and what would fit then is found now, so that deciding again on
    the result changes nothing.
    """
    if not jobs:
        return {}
    roles = {(key, pod.role) for key, pod in cluster.assigned_pods()}
    queue = [
        replace(job, coordinator=None) if (job.key, Role.COORDINATOR) in roles else job
        for job in sorted(jobs, key=queue_position)
    ]
    cycle = SchedulingCycle(
        queue=queue,
        usage=ClusterUsage(cluster, matcher),
        bound_nodes=bound_nodes(cluster),
        bound_parties=bound_parties(cluster),
        unbound_pods=unbound_pods(cluster),
        room_since=room_since,
        now=now,
        settings=settings,
    )
    proposals: dict[Key, Proposal] = {}
    decisions = _run_cycle(cycle, proposals)
    for _ in range(_MAX_CYCLES - 1):
        assumed = [_assume(job, decisions[job.key], now) for job in cycle.queue]
        changed = [new.key for new, old in zip(assumed, cycle.queue, strict=True) if new is not old]
        if not changed:
            break
        for key in changed:
            proposals.pop(key, None)
        cycle = replace(cycle, queue=assumed)
        decisions = _merge(queue, decisions, _run_cycle(cycle, proposals))
    return decisions


def _run_cycle(cycle: SchedulingCycle, proposals: dict[Key, Proposal]) -> dict[Key, Decision]:
    """Decide once; `proposals` holds those of jobs that no earlier cycle changed, and is filled."""
    ledger = Ledger(cycle.usage)
    waiting = [job for job in cycle.queue if job.admitted_workers <= 0]
    gangs = [job for job in cycle.queue if job.admitted_workers > 0 and job.gang]
    scalable = [job for job in cycle.queue if job.admitted_workers > 0 and not job.gang]
    overdue = {job.key: cycle.overdue(job, ledger) for job in (*gangs, *scalable)}
    for job in scalable:
        if job.key not in proposals:
            unbound = cycle.unbound(job, job.admitted_workers)
            proposals[job.key] = desired_size(
                job, unbound, overdue[job.key], ledger, cycle.now, cycle.settings
            )
    _keep_admitted(cycle, waiting, proposals, overdue, ledger)
    pools = _pool_capacity(cycle, scalable)
    decisions = {job.key: _admit(job, ledger, pools, cycle) for job in waiting}
    decisions |= {job.key: extend_gang(job, ledger) for job in gangs}
    added = divide(scalable, proposals, ledger)
    for job in scalable:
        decisions[job.key] = _decide(job, proposals[job.key], added.get(job.key, 0), ledger)
    decisions = _with_memory(cycle, decisions, overdue)
    return _with_nodes(decisions, ledger)


def _pool_capacity(cycle: SchedulingCycle, admitted: Iterable[JobRequest]) -> PoolCapacity:
    pools = PoolCapacity(cycle.settings, cycle.usage.matcher.nodes)
    for job in admitted:
        if is_awaiting(job):
            pools.pledge(job, cycle.unbound(job, job.admitted_workers))
    return pools


def _with_memory(
    cycle: SchedulingCycle, decisions: Mapping[Key, Decision], overdue: Mapping[Key, Overdue]
) -> dict[Key, Decision]:
    """The decisions, and what the next ones have to know of what was not placed."""
    return {job.key: _remember(cycle, job, decisions[job.key], overdue) for job in cycle.queue}


def _remember(
    cycle: SchedulingCycle, job: JobRequest, decision: Decision, overdue: Mapping[Key, Overdue]
) -> Decision:
    now, settings = cycle.now, cycle.settings
    bound = cycle.bound_nodes.get(job.key, Counter()).total()
    found = overdue.get(job.key, NONE_OVERDUE)
    times = [decision.requeue_at, found.due_at]
    if cycle.unbound(job, decision.workers) and not job.gang:
        times.append(now + settings.bind_timeout)
    pool = decision.provisioning or remember_pool(job, decision.reason, now, settings)
    size = remember_size(job, decision.workers, decision.reason, bound, now, settings)
    return replace(
        decision,
        not_placed=size,
        provisioning=pool,
        left_out=remember_left_out(job, decision.workers, decision.reason, now),
        room_since=found.room_since,
        requeue_at=min((time for time in times if time is not None), default=None),
    )


def _with_nodes(decisions: Mapping[Key, Decision], ledger: Ledger) -> dict[Key, Decision]:
    """The decisions, and the nodes that pods without one should prefer where there is a choice."""
    placed = ledger.nodes_by_owner()
    return {
        key: replace(decision, nodes=_preferred(placed[key], ledger)) if key in placed else decision
        for key, decision in decisions.items()
    }


def _preferred(placed: Mapping[PodShape, Collection[str]], ledger: Ledger) -> tuple[str, ...]:
    """The hostnames of the chosen nodes; none if there are no others, or too many to name."""
    hostnames: dict[str, None] = {}
    has_choice = False
    for shape, nodes in placed.items():
        has_choice |= len(nodes) < len(ledger.candidates(shape).ready)
        hostnames |= dict.fromkeys(ledger.usage.hostnames(nodes, shape))
    return tuple(hostnames) if has_choice and len(hostnames) <= MAX_PREFERRED_NODES else ()


def _admit(
    job: JobRequest, ledger: Ledger, pools: PoolCapacity, cycle: SchedulingCycle
) -> Decision:
    if job.gang:
        return admit_gang(job, ledger, cycle.now)
    return admit(job, ledger, cycle.now, pools)


def _assume(job: JobRequest, decision: Decision, now: datetime) -> JobRequest:
    """The job as if the decision were in force."""
    if decision.workers == job.admitted_workers:
        return job
    return replace(
        job,
        not_placed=decision.not_placed,
        provisioning=decision.provisioning,
        left_out=decision.left_out,
        admitted_workers=decision.workers,
        admitted_parties=decision.parties,
        admitted_at=job.admitted_at or now,
        decision_time=now,
        is_running=False,
    )


def _merge(
    queue: Sequence[JobRequest], earlier: Mapping[Key, Decision], later: Mapping[Key, Decision]
) -> dict[Key, Decision]:
    """The later cycle's decisions, but a change that it only confirms keeps the earlier reason."""
    return {
        job.key: replace(earlier[job.key], nodes=later[job.key].nodes)
        if later[job.key].workers == earlier[job.key].workers != job.admitted_workers
        else later[job.key]
        for job in queue
    }


def _keep_admitted(
    cycle: SchedulingCycle,
    waiting: Sequence[JobRequest],
    proposals: Mapping[Key, Proposal],
    overdue: Mapping[Key, Overdue],
    ledger: Ledger,
) -> None:
    """Set resources aside for admitted pods that have no node yet, in queue order.

    They go where no waiting job could go, if possible. When they do not all fit, every node that
    the missing ones and those contending with them could use is reserved: the missing ones come
    before waiting jobs, which must not be placed where kube-scheduler may still put the others.
    A job that could not have all of its pods even if no other job ran reserves nothing.
    """
    desired = _nodes_of_waiting(waiting, ledger)
    outstanding: dict[PodShape, int] = {}
    unplaced = []
    for job in cycle.queue:
        if job.admitted_workers <= 0:
            continue
        proposal = proposals.get(job.key)
        for shape, missing in cycle.outstanding(job, proposal, overdue[job.key]).items():
            outstanding[shape] = outstanding.get(shape, 0) + missing
            is_placed = _take_outside(shape, missing, job.key, desired, ledger)
            if not is_placed and cycle.could_be_whole(job, shape, missing):
                unplaced.append(shape)
        if job.coordinator is not None:
            ledger.take(job.coordinator, 1)
    contended = contending(unplaced, outstanding, ledger) if unplaced else ()
    for shape, missing in outstanding.items():
        if shape in contended:
            ledger.reserve(shape, missing)


def _take_outside(
    shape: PodShape,
    pods: int,
    owner: Key,
    desired: Mapping[str, frozenset[str]],
    ledger: Ledger,
) -> bool:
    """Place pods, first on nodes that waiting jobs do not compete for; whether all fitted."""
    avoid = frozenset().union(*(desired.get(r, frozenset()) for r in shape.contended))
    placed = ledger.take(shape, pods, avoid=avoid, owner=owner)
    return placed + ledger.take(shape, pods - placed, owner=owner) == pods


def _nodes_of_waiting(waiting: Sequence[JobRequest], ledger: Ledger) -> dict[str, frozenset[str]]:
    """The ready nodes that waiting jobs could use, by the resource that they compete for."""
    nodes: dict[str, frozenset[str]] = {}
    for shape in {shape for job in waiting for shape in _shapes(job)}:
        for resource in shape.contended:
            known = nodes.get(resource, frozenset())
            nodes[resource] = known | ledger.candidates(shape).ready
    return nodes


def _shapes(job: JobRequest) -> Iterable[PodShape]:
    return gang_shapes(job.gang) if job.gang else (job.shape,)


def _decide(job: JobRequest, proposal: Proposal, added: int, ledger: Ledger) -> Decision:
    current = job.admitted_workers
    size = proposal.workers if proposal.workers <= current else current + added
    if size == current:
        return _keep_size(job, proposal, ledger)
    speedup = proposal.curve.speedup(current, size) if proposal.curve else None
    is_applied = proposal.is_applied(job)
    is_short = size < proposal.workers
    facts = SizeChanged(
        before=current,
        after=size,
        basis=proposal.basis,
        is_recommendation=not is_applied,
        added=PodsRequest.of(job, size - current) if size > current else None,
        expected_speedup=speedup,
        shortage=_shortage(job, size, proposal.workers, ledger) if is_short else None,
    )
    return Decision(
        workers=size if is_applied else current,
        recommended=size,
        reason=proposal.reason,
        facts=facts,
        expected_speedup=speedup,
        requeue_at=proposal.requeue_at,
    )


def _keep_size(job: JobRequest, proposal: Proposal, ledger: Ledger) -> Decision:
    current = job.admitted_workers
    shortage = None
    if proposal.workers > current:
        desired = proposal.workers if proposal.is_mandatory else proposal.at_least
        shortage = _shortage(job, current, desired, ledger)
    return Decision(
        workers=current,
        recommended=current,
        reason=Reason.NO_FREE_GPUS if shortage else proposal.reason,
        facts=SizeKept(workers=current, basis=proposal.basis, shortage=shortage),
        requeue_at=proposal.requeue_at,
    )


def _shortage(job: JobRequest, workers: int, desired: int, ledger: Ledger) -> Shortage:
    return Shortage(
        missing=PodsRequest.of(job, desired - workers),
        desired=desired,
        availability=ledger.availability(job.shape),
    )
