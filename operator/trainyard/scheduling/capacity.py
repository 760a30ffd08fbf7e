"""Which accelerators are free, and how many workers of one shape fit on them.

It stands apart because reservations, admission and growth must count the same GPUs once: they
share one ledger per allocation. Where a pod really goes is kube-scheduler's choice; the ledger
packs jobs on few nodes, as their affinity asks, to know that a placement exists.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Self

from trainyard.api.cluster import Cluster, Node, Toleration
from trainyard.scheduling.packing import NodeCapacityIndex
from trainyard.scheduling.request import JobRequest, PodRequest

_REPELLING: Final = frozenset({"NoSchedule", "NoExecute"})
_NOWHERE: Final[frozenset[str]] = frozenset()
_MOST_ROOMS: Final = 64
"""Shapes followed at a time: each costs a little with every place taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PodShape:
    """What a worker asks of a node; jobs of equal shape compete for the same places."""

    resource: str
    gpus: int
    selector: tuple[tuple[str, str], ...] = ()
    tolerations: tuple[Toleration, ...] = ()

    @classmethod
    def of(cls, job: JobRequest) -> Self:
        """The shape of the job's workers."""
        return cls(
            resource=job.resource,
            gpus=job.gpus_per_worker,
            selector=tuple(sorted(job.node_selector.items())),
            tolerations=job.tolerations,
        )

    @classmethod
    def of_place(cls, place: PodRequest) -> Self:
        """The shape of one party of a gang."""
        return cls(
            resource=place.resource,
            gpus=place.gpus,
            selector=tuple(sorted(place.node_selector.items())),
            tolerations=place.tolerations,
        )


def matches(node: Node, shape: PodShape) -> bool:
    """Whether kube-scheduler might ever put such a worker on the node, were it ready and empty."""
    return (
        node.gpus.get(shape.resource, 0) >= shape.gpus
        and all(node.labels.get(key) == value for key, value in shape.selector)
        and all(
            any(toleration.tolerates(taint) for toleration in shape.tolerations)
            for taint in node.taints
            if taint.effect in _REPELLING
        )
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateNodes:
    """The nodes that a shape can have, whatever runs on them at the moment."""

    matching: int
    """Nodes that could ever hold such a worker, ready or not."""
    usable: frozenset[str]
    """Names of those that are ready."""
    capacity: int
    """Workers that all matching nodes would hold if they were empty."""
    ready_capacity: int
    """Workers that the ready ones would hold if they were empty."""


class Ledger:
    """GPUs not spoken for, node by node, while one allocation is worked out.

    The only thing in these rules that changes; it is made and dropped inside one `allocate`.
    Answers are remembered until the next change, as most jobs ask what others asked before.
    """

    __slots__ = ("_claims", "_closed", "_free", "_grounds", "_nodes", "_rooms", "_totals")

    def __init__(self, cluster: Cluster) -> None:
        self._nodes = sorted(cluster.nodes, key=lambda node: node.name)
        self._free: dict[str, dict[str, int]] = {}
        for node in self._nodes:
            for resource, gpus in node.gpus.items():
                self._free.setdefault(resource, {})[node.name] = gpus
        for pod in cluster.pods:
            if pod.node in (free := self._free.get(pod.resource, {})):
                free[pod.node] -= pod.gpus
        self._closed: dict[str, frozenset[str]] = {}
        self._claims: Counter[tuple[str, frozenset[str]]] = Counter()
        self._grounds: dict[PodShape, CandidateNodes] = {}
        self._rooms: dict[tuple[PodShape, frozenset[str]], NodeCapacityIndex] = {}
        self._totals: dict[PodShape, tuple[int, int]] = {}

    def ground(self, shape: PodShape) -> CandidateNodes:
        """The nodes that the shape can have."""
        if shape not in self._grounds:
            self._grounds[shape] = _ground(self._nodes, shape)
        return self._grounds[shape]

    def slots(self, shape: PodShape, *, with_claimed: bool = False) -> int:
        """How many workers of the shape fit now, by default without the claimed nodes."""
        without = _NOWHERE if with_claimed else self._closed.get(shape.resource, _NOWHERE)
        return self._rooms_for(shape, without).total

    def free(self, shape: PodShape) -> tuple[int, int]:
        """Free GPUs on the nodes that the shape could use, and the number of nodes with any."""
        if shape not in self._totals:
            free = self._free.get(shape.resource, {})
            gpus = [free[name] for name in self.ground(shape).usable if free[name] > 0]
            self._totals[shape] = sum(gpus), len(gpus)
        return self._totals[shape]

    def claims(self, shape: PodShape) -> int:
        """How many jobs have claimed nodes that the shape could use."""
        usable = self.ground(shape).usable
        return sum(
            count
            for (resource, nodes), count in self._claims.items()
            if resource == shape.resource and not nodes.isdisjoint(usable)
        )

    def take(self, shape: PodShape, workers: int, *, avoid: frozenset[str] = _NOWHERE) -> int:
        """Place up to `workers` outside claimed and avoided nodes; returns how many found room."""
        without = self._closed.get(shape.resource, _NOWHERE)
        rooms = self._rooms_for(shape, avoid | without if avoid else without)
        chosen = rooms.pack(workers) if workers > 0 else []
        free = self._free.get(shape.resource, {})
        for name, count in chosen:
            free[name] -= count * shape.gpus
            for (other, _), known in self._rooms.items():
                if other.resource == shape.resource:
                    known.change(name, free[name])
        if chosen:
            self._totals.clear()
        return sum(count for _, count in chosen)

    def take_gang(self, shapes: Mapping[PodShape, int]) -> tuple[PodShape, ...]:
        """Place all of a gang or none; returns the shapes that found too little room.

        The choosiest go first, as others can go elsewhere. That is no proof: a gang whose shapes
        share nodes in an odd way may find no room where a search would.
        """
        before = {resource: dict(free) for resource, free in self._free.items()}
        short = []
        for shape in sorted(shapes, key=self._choosiness):
            if self.take(shape, shapes[shape]) < shapes[shape]:
                short.append(shape)
        if short:
            self._free = before
            self._rooms.clear()
            self._totals.clear()
        return tuple(short)

    def emptied(self, *, only_ready: bool = False) -> Ledger:
        """The same nodes with nothing on them, by default as if all were ready."""
        nodes = self._nodes if only_ready else [replace(n, is_ready=True) for n in self._nodes]
        return Ledger(Cluster(nodes=tuple(nodes)))

    def _choosiness(self, shape: PodShape) -> tuple[int, int, tuple[tuple[str, str], ...]]:
        return len(self.ground(shape).usable), -shape.gpus, shape.selector

    def claim(self, shape: PodShape) -> None:
        """Keep every node that the shape could use for a job that waits: no later one gets in."""
        usable = self.ground(shape).usable
        closed = self._closed.get(shape.resource, _NOWHERE)
        self._claims[shape.resource, usable] += 1
        if not usable <= closed:
            self._closed[shape.resource] = closed | usable

    def _rooms_for(self, shape: PodShape, without: frozenset[str]) -> NodeCapacityIndex:
        """Workers that fit now by node."""
        question = (shape, without)
        if question not in self._rooms:
            if len(self._rooms) >= _MOST_ROOMS:
                self._rooms.clear()
            free = self._free.get(shape.resource, {})
            self._rooms[question] = NodeCapacityIndex(
                free, self.ground(shape).usable - without, shape.gpus
            )
        return self._rooms[question]


def entangled(
    short: Iterable[PodShape], shapes: Iterable[PodShape], ledger: Ledger
) -> set[PodShape]:
    """Of the shapes those that compete with the short ones, at first or at second hand.

    What stands on nodes of its own, another site or pool, is no matter to them.
    """
    found, left = set(short), set(shapes)
    grown = bool(found)
    while grown:
        left -= found
        reached = {(s.resource, name) for s in found for name in ledger.ground(s).usable}
        more = {s for s in left if any((s.resource, n) in reached for n in ledger.ground(s).usable)}
        found |= more
        grown = bool(more)
    return found


def _ground(nodes: Iterable[Node], shape: PodShape) -> CandidateNodes:
    matching = [node for node in nodes if matches(node, shape)]
    ready = [node for node in matching if node.is_ready]
    return CandidateNodes(
        matching=len(matching),
        usable=frozenset(node.name for node in ready),
        capacity=sum(node.gpus[shape.resource] // shape.gpus for node in matching),
        ready_capacity=sum(node.gpus[shape.resource] // shape.gpus for node in ready),
    )
