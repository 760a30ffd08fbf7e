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
from trainyard.scheduling.capacity import Ledger, PodShape
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


def gang_shapes(gang: Sequence[PodRequest]) -> Counter[PodShape]:
    """Number of pods by shape; pods without GPUs are left out."""
    return Counter(PodShape.of_pod(pod) for pod in gang if pod.gpus)


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
    if unplaced := ledger.emptied().take_gang(shapes) if shapes else ():
        return _wait(job, ledger, unplaced, Reason.NO_SUCH_NODES)
    if unplaced := ledger.take_gang(shapes):
        decision = _wait(job, ledger, unplaced, Reason.WAITING_FOR_GPUS)
        if not ledger.emptied(only_ready=True).take_gang(shapes):
            for shape in shapes:
                ledger.reserve(shape)
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
        fits = not pod.gpus or ledger.take(PodShape.of_pod(pod), 1)
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
    job: JobRequest, ledger: Ledger, unplaced: Collection[PodShape], reason: Reason
) -> Decision:
    waiting = [pod for pod in job.gang if pod.gpus and PodShape.of_pod(pod) in unplaced]
    is_in_queue = reason is Reason.WAITING_FOR_GPUS and all(
        ledger.slots(shape, include_reserved=True) >= count
        for shape, count in gang_shapes(waiting).items()
    )
    return Decision(
        workers=0,
        recommended=0,
        reason=Reason.WAITING_IN_QUEUE if is_in_queue else reason,
        facts=PartiesWaiting(parties=len(job.gang), waiting=_waiting_parties(waiting, ledger)),
    )


def _waiting_parties(pods: Sequence[PodRequest], ledger: Ledger) -> tuple[WaitingParty, ...]:
    availability = {shape: ledger.availability(shape) for shape in gang_shapes(pods)}
    return tuple(
        WaitingParty(
            party=pod.party,
            shape=(shape := PodShape.of_pod(pod)),
            matching_nodes=ledger.candidates(shape).matching,
            availability=availability[shape],
        )
        for pod in pods
    )


def _gpus_by_resource(gang: Sequence[PodRequest]) -> tuple[tuple[str, int], ...]:
    gpus = Counter[str]()
    for pod in gang:
        if pod.gpus:
            gpus[pod.resource] += pod.gpus
    return tuple(sorted(gpus.items()))
