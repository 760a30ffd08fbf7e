"""The queue for federations: a gang of unlike parties starts together, or waits together.

It stands apart from `admission`, which knows workers that are all alike, and keeps its order: what
waits claims every node that it could use.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from datetime import datetime

from trainyard.api.cluster import Cluster
from trainyard.api.names import Key
from trainyard.api.reasons import Reason
from trainyard.scheduling.capacity import Ledger, PodShape
from trainyard.scheduling.request import Decision, JobRequest, PodRequest

_NAMED = 5
"""Parties that a sentence names."""


def shapes_of(places: Sequence[PodRequest]) -> Counter[PodShape]:
    """How many of the places have which shape; those without GPUs ask for nothing."""
    return Counter(PodShape.of_place(place) for place in places if place.gpus)


def admit_gang(job: JobRequest, ledger: Ledger, now: datetime) -> Decision:
    """Admit all parties at once, or say which of them wait for what."""
    if job.refused_until is not None and job.refused_until > now:
        return Decision(
            workers=0,
            recommended=0,
            reason=Reason.START_TIMED_OUT,
            message=f"its last start did not run in time; it queues again at "
            f"{job.refused_until:%H:%M:%S}",
            requeue_at=job.refused_until,
        )
    shapes = shapes_of(job.gang)
    if unplaced := ledger.emptied().take_gang(shapes) if shapes else ():
        return _waits(job, ledger, unplaced, Reason.NO_SUCH_NODES)
    if short := ledger.take_gang(shapes):
        decision = _waits(job, ledger, short, Reason.WAITING_FOR_GPUS)
        if not ledger.emptied(only_ready=True).take_gang(shapes):
            for shape in shapes:
                ledger.claim(shape)
        return decision
    names = tuple(place.party for place in job.gang)
    message = f"admitted with {_counted(len(names))}: {_needs(job.gang)}"
    return _holds(names, Reason.ADMITTED, message)


def extend_gang(job: JobRequest, ledger: Ledger) -> Decision:
    """An admitted gang keeps what it has; parties that joined later get room as there is some."""
    held = set(job.admitted_parties)
    joined: list[PodRequest] = []
    waiting: list[PodRequest] = []
    for place in job.gang:
        if place.party in held:
            continue
        fits = not place.gpus or ledger.take(PodShape.of_place(place), 1)
        (joined if fits else waiting).append(place)
    names = tuple(p.party for p in job.gang if p.party in held or p in joined)
    here = f"{_counted(len(names))} have room" if len(names) != 1 else "1 party has room"
    if waiting:
        message = f"{here}; {_who_waits(waiting, ledger)}"
        return _holds(names, Reason.NO_FREE_GPUS, message)
    if joined:
        named = ", ".join(place.party for place in joined[:_NAMED])
        return _holds(names, Reason.PARTY_ADDED, f"{here}, {named} among them since now")
    return _holds(names, Reason.STEADY, here)


def bound_parties(cluster: Cluster) -> dict[Key, frozenset[str]]:
    """The parties whose pod holds a node, by job."""
    found: dict[Key, set[str]] = {}
    for key, pod in cluster.holders():
        if pod.party:
            found.setdefault(key, set()).add(pod.party)
    return {key: frozenset(parties) for key, parties in found.items()}


def unbound_shapes(job: JobRequest, bound: Collection[str]) -> Counter[PodShape]:
    """What admitted parties still need that no pod of theirs holds."""
    held = set(job.admitted_parties) - set(bound)
    return shapes_of([place for place in job.gang if place.party in held])


def _holds(parties: tuple[str, ...], reason: Reason, message: str) -> Decision:
    return Decision(
        workers=len(parties),
        recommended=len(parties),
        parties=parties,
        reason=reason,
        message=message,
    )


def _waits(
    job: JobRequest, ledger: Ledger, short: Collection[PodShape], reason: Reason
) -> Decision:
    places = [place for place in job.gang if place.gpus and PodShape.of_place(place) in short]
    is_in_queue = reason is Reason.WAITING_FOR_GPUS and all(
        ledger.slots(shape, with_claimed=True) >= count
        for shape, count in shapes_of(places).items()
    )
    message = f"all {len(job.gang)} parties start together; {_who_waits(places, ledger)}"
    return Decision(
        workers=0,
        recommended=0,
        reason=Reason.WAITING_IN_QUEUE if is_in_queue else reason,
        message=message,
    )


def _who_waits(places: Sequence[PodRequest], ledger: Ledger) -> str:
    """Which parties lack what: `party a waits for 1 × nvidia.com/gpu; 0 free on 0 nodes`."""
    told = []
    for place in places[:_NAMED]:
        shape = PodShape.of_place(place)
        gpus, nodes = ledger.free(shape)
        before = ledger.claims(shape)
        queue = f", {before} before it" if before else ""
        matching = ledger.ground(shape).matching
        where = f"{gpus} free on {nodes} of {matching} that could hold it{queue}"
        told.append(f"party {place.party} waits for {_need(place)} ({where})")
    more = len(places) - len(told)
    return "; ".join(told) + (f"; and {more} more" if more > 0 else "")


def _need(place: PodRequest) -> str:
    selector = ",".join(f"{key}={value}" for key, value in sorted(place.node_selector.items()))
    where = f" with selector {selector}" if selector else ""
    return f"{place.gpus} {place.resource}{where}"


def _needs(gang: Sequence[PodRequest]) -> str:
    gpus = Counter[str]()
    for place in gang:
        if place.gpus:
            gpus[place.resource] += place.gpus
    return ", ".join(f"{count} {name}" for name, count in sorted(gpus.items())) or "no GPU"


def _counted(number: int) -> str:
    return "1 party" if number == 1 else f"{number} parties"
