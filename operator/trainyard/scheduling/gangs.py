"""The queue for federations: a gang of unlike parties starts together, or waits together.

It keeps the order of `admission`: a waiting gang reserves every node that it could use.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from datetime import datetime

from trainyard.api.cluster import Cluster
from trainyard.api.names import Key
from trainyard.api.reasons import Reason
from trainyard.scheduling.admission import waiting_reason
from trainyard.scheduling.capacity import Basis, Ledger
from trainyard.scheduling.decision import Decision
from trainyard.scheduling.facts import (
    Facts,
    PartiesAdmitted,
    PartiesAssigned,
    PartiesWaiting,
    StartTimedOut,
    WaitingParty,
)
from trainyard.scheduling.request import JobRequest, PodRequest
from trainyard.scheduling.shapes import PodShape


def gang_shapes(gang: Sequence[PodRequest]) -> Counter[PodShape]:
    """Number of pods by shape."""
    return Counter(pod.shape for pod in gang)


def admit_gang(job: JobRequest, ledger: Ledger, now: datetime) -> Decision:
    """Admit all parties at once, or keep all waiting."""
    if job.backoff_until is not None and job.backoff_until > now:
        return Decision(
            workers=0,
            recommended=0,
            reason=Reason.START_TIMED_OUT,
            facts=StartTimedOut(minimum=None, requeue_at=job.backoff_until),
            requeue_at=job.backoff_until,
        )
    shapes = gang_shapes(job.gang)
    if unplaced := ledger.unplaceable(shapes, Basis.EMPTY):
        return _wait(job, ledger, unplaced, is_possible=False)
    mark = ledger.mark()
    if job.coordinator is not None:
        ledger.take(job.coordinator, 1)
    if unplaced := ledger.take_gang(shapes, owner=job.key):
        ledger.undo(mark)
        decision = _wait(job, ledger, unplaced)
        if not ledger.unplaceable(shapes, Basis.ATTAINABLE):
            for shape, count in shapes.items():
                ledger.reserve(shape, count)
        return decision
    parties = tuple(pod.party for pod in job.gang)
    facts = PartiesAdmitted(parties=len(parties), gpus=_gpus_by_resource(job.gang))
    return _assign(parties, Reason.ADMITTED, facts)


def extend_gang(job: JobRequest, ledger: Ledger) -> Decision:
    """Keep the parties of an admitted gang, and add those that joined later as far as they fit."""
    assigned = set(job.admitted_parties)
    added: list[PodRequest] = []
    waiting: list[PodRequest] = []
    for pod in job.gang:
        if pod.party in assigned:
            continue
        fits = ledger.take(pod.shape, 1, owner=job.key)
        (added if fits else waiting).append(pod)
    parties = tuple(p.party for p in job.gang if p.party in assigned or p in added)
    facts = PartiesAssigned(
        parties=len(parties),
        added=tuple(pod.party for pod in added),
        waiting=_waiting_parties(waiting, ledger),
    )
    if waiting:
        return _assign(parties, Reason.NO_FREE_GPUS, facts)
    return _assign(parties, Reason.PARTY_ADDED if added else Reason.STEADY, facts)


def bound_parties(cluster: Cluster) -> dict[Key, frozenset[str]]:
    """The parties whose pod is bound to a node, by job."""
    found: dict[Key, set[str]] = {}
    for key, pod in cluster.assigned_pods():
        if pod.party:
            found.setdefault(key, set()).add(pod.party)
    return {key: frozenset(parties) for key, parties in found.items()}


def unbound_shapes(job: JobRequest, bound: Collection[str]) -> Counter[PodShape]:
    """What the assigned parties need whose pods are not bound to a node yet."""
    unbound = set(job.admitted_parties) - set(bound)
    return gang_shapes([pod for pod in job.gang if pod.party in unbound])


def _assign(parties: tuple[str, ...], reason: Reason, facts: Facts) -> Decision:
    return Decision(
        workers=len(parties),
        recommended=len(parties),
        parties=parties,
        reason=reason,
        facts=facts,
    )


def _wait(
    job: JobRequest, ledger: Ledger, unplaced: Collection[PodShape], *, is_possible: bool = True
) -> Decision:
    waiting = [pod for pod in job.gang if pod.shape in unplaced]
    shapes = gang_shapes(waiting)
    blocked = () if not is_possible else ledger.unplaceable(gang_shapes(job.gang), Basis.ATTAINABLE)
    facts = PartiesWaiting(
        parties=len(job.gang),
        waiting=_waiting_parties(waiting, ledger),
        in_the_way=tuple(dict.fromkeys(p for s in blocked for p in ledger.usage.in_the_way(s)))[:3],
        refused_class=job.refused_class,
    )
    reason = waiting_reason(shapes, ledger) if is_possible else Reason.NO_SUCH_NODES
    return Decision(workers=0, recommended=0, reason=reason, facts=facts)


def _waiting_parties(pods: Sequence[PodRequest], ledger: Ledger) -> tuple[WaitingParty, ...]:
    availability = {shape: ledger.availability(shape) for shape in gang_shapes(pods)}
    return tuple(
        WaitingParty(
            party=pod.party,
            shape=(shape := pod.shape),
            matching_nodes=ledger.candidates(shape).matching,
            availability=availability[shape],
        )
        for pod in pods
    )


def _gpus_by_resource(gang: Sequence[PodRequest]) -> tuple[tuple[str, int], ...]:
    gpus = Counter[str]()
    for pod in gang:
        gpus.update(dict(pod.shape.accelerators))
    return tuple(sorted(gpus.items()))
