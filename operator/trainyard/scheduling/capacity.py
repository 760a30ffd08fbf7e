"""Which accelerators are free, and how many workers of one shape fit on them.

Reservations, admission and growth share one ledger per allocation, so that they count the same
GPUs once. Where a pod really goes is kube-scheduler's choice; the ledger packs jobs on few nodes,
as their affinity asks, to know that a placement exists.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Self

from trainyard.api.cluster import Cluster, Node, Toleration
from trainyard.scheduling.packing import NodeCapacityIndex
from trainyard.scheduling.request import JobRequest, PodRequest

_BLOCKING_EFFECTS: Final = frozenset({"NoSchedule", "NoExecute"})
_NO_NODES: Final[frozenset[str]] = frozenset()
_MAX_INDEXES: Final = 64
"""Indexes kept at a time: each costs a little with every worker placed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PodShape:
    """What a worker requests of a node; jobs of equal shape compete for the same nodes."""

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
    def of_pod(cls, pod: PodRequest) -> Self:
        """The shape of one party of a gang."""
        return cls(
            resource=pod.resource,
            gpus=pod.gpus,
            selector=tuple(sorted(pod.node_selector.items())),
            tolerations=pod.tolerations,
        )


def matches(node: Node, shape: PodShape) -> bool:
    """Whether kube-scheduler might ever put such a worker on the node, were it ready and empty."""
    return (
        node.gpus.get(shape.resource, 0) >= shape.gpus
        and all(node.labels.get(key) == value for key, value in shape.selector)
        and all(
            any(toleration.tolerates(taint) for toleration in shape.tolerations)
            for taint in node.taints
            if taint.effect in _BLOCKING_EFFECTS
        )
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateNodes:
    """The nodes that match a shape, whatever runs on them at the moment."""

    matching: int
    """Number of nodes that could ever hold such a worker, ready or not."""
    ready: frozenset[str]
    """Names of those that are ready."""
    capacity: int
    """Workers that all matching nodes would hold if they were empty."""
    ready_capacity: int
    """Workers that the ready ones would hold if they were empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Availability:
    """What a shape can have now."""

    free_gpus: int
    """Free accelerators on the ready nodes that match."""
    nodes: int
    """Number of those nodes that have any free."""
    jobs_ahead: int
    """Waiting jobs that have reserved any of those nodes."""


class Ledger:
    """Free GPUs, node by node, while one allocation is worked out.

    The only mutable object of these rules; it is made and dropped inside one `allocate`.
    Answers are cached until the next change, as many jobs have equal shapes.
    """

    __slots__ = (
        "_candidates",
        "_free",
        "_indexes",
        "_nodes",
        "_reservations",
        "_reserved",
        "_totals",
    )

    def __init__(self, cluster: Cluster) -> None:
        self._nodes = sorted(cluster.nodes, key=lambda node: node.name)
        self._free: dict[str, dict[str, int]] = {}
        for node in self._nodes:
            for resource, gpus in node.gpus.items():
                self._free.setdefault(resource, {})[node.name] = gpus
        for pod in cluster.pods:
            if pod.node in (free := self._free.get(pod.resource, {})):
                free[pod.node] -= pod.gpus
        self._reserved: dict[str, frozenset[str]] = {}
        self._reservations: Counter[tuple[str, frozenset[str]]] = Counter()
        self._candidates: dict[PodShape, CandidateNodes] = {}
        self._indexes: dict[tuple[PodShape, frozenset[str]], NodeCapacityIndex] = {}
        self._totals: dict[PodShape, tuple[int, int]] = {}

    def candidates(self, shape: PodShape) -> CandidateNodes:
        """The nodes that match the shape."""
        if shape not in self._candidates:
            self._candidates[shape] = _candidates(self._nodes, shape)
        return self._candidates[shape]

    def slots(self, shape: PodShape, *, include_reserved: bool = False) -> int:
        """How many workers of the shape fit now, by default outside reserved nodes."""
        reserved = self._reserved.get(shape.resource, _NO_NODES)
        return self._index(shape, _NO_NODES if include_reserved else reserved).total

    def availability(self, shape: PodShape) -> Availability:
        """What is free on the nodes that match, and how many jobs wait for them."""
        ready = self.candidates(shape).ready
        if shape not in self._totals:
            free = self._free.get(shape.resource, {})
            gpus = [free[name] for name in ready if free[name] > 0]
            self._totals[shape] = sum(gpus), len(gpus)
        free_gpus, nodes = self._totals[shape]
        ahead = sum(
            count
            for (resource, reserved), count in self._reservations.items()
            if resource == shape.resource and not reserved.isdisjoint(ready)
        )
        return Availability(free_gpus=free_gpus, nodes=nodes, jobs_ahead=ahead)

    def take(self, shape: PodShape, workers: int, *, avoid: frozenset[str] = _NO_NODES) -> int:
        """Place up to `workers` outside reserved and avoided nodes; returns how many fitted."""
        reserved = self._reserved.get(shape.resource, _NO_NODES)
        index = self._index(shape, avoid | reserved if avoid else reserved)
        chosen = index.pack(workers) if workers > 0 else []
        free = self._free.get(shape.resource, {})
        for name, count in chosen:
            free[name] -= count * shape.gpus
            for (other, _), known in self._indexes.items():
                if other.resource == shape.resource:
                    known.update(name, free[name])
        if chosen:
            self._totals.clear()
        return sum(count for _, count in chosen)

    def take_gang(self, shapes: Mapping[PodShape, int]) -> tuple[PodShape, ...]:
        """Place all of a gang or nothing; returns the shapes that did not fit.

        The most constrained go first, as others can go elsewhere. That is no proof: a gang whose
        shapes share nodes in an odd way may not fit where a search would find a placement.
        """
        before = {resource: dict(free) for resource, free in self._free.items()}
        unplaced = []
        for shape in sorted(shapes, key=self._most_constrained_first):
            if self.take(shape, shapes[shape]) < shapes[shape]:
                unplaced.append(shape)
        if unplaced:
            self._free = before
            self._indexes.clear()
            self._totals.clear()
        return tuple(unplaced)

    def emptied(self, *, only_ready: bool = False) -> Ledger:
        """A ledger of the same nodes without pods, by default as if all were ready."""
        nodes = self._nodes if only_ready else [replace(n, is_ready=True) for n in self._nodes]
        return Ledger(Cluster(nodes=tuple(nodes)))

    def reserve(self, shape: PodShape) -> None:
        """Keep every node that the shape could use for a waiting job: no later one is placed."""
        ready = self.candidates(shape).ready
        reserved = self._reserved.get(shape.resource, _NO_NODES)
        self._reservations[shape.resource, ready] += 1
        if not ready <= reserved:
            self._reserved[shape.resource] = reserved | ready

    def _most_constrained_first(
        self, shape: PodShape
    ) -> tuple[int, int, tuple[tuple[str, str], ...]]:
        return len(self.candidates(shape).ready), -shape.gpus, shape.selector

    def _index(self, shape: PodShape, excluded: frozenset[str]) -> NodeCapacityIndex:
        key = (shape, excluded)
        if key not in self._indexes:
            if len(self._indexes) >= _MAX_INDEXES:
                self._indexes.clear()
            free = self._free.get(shape.resource, {})
            nodes = self.candidates(shape).ready - excluded
            self._indexes[key] = NodeCapacityIndex(free, nodes, shape.gpus)
        return self._indexes[key]


def contending(
    unplaced: Iterable[PodShape], shapes: Iterable[PodShape], ledger: Ledger
) -> set[PodShape]:
    """The unplaced shapes, and those that share nodes with them directly or through others.

    A shape with nodes of its own, at another site or in another pool, does not contend.
    """
    found, left = set(unplaced), set(shapes)
    has_grown = bool(found)
    while has_grown:
        left -= found
        shared = {(s.resource, name) for s in found for name in ledger.candidates(s).ready}
        more = {
            s for s in left if any((s.resource, n) in shared for n in ledger.candidates(s).ready)
        }
        found |= more
        has_grown = bool(more)
    return found


def _candidates(nodes: Iterable[Node], shape: PodShape) -> CandidateNodes:
    matching = [node for node in nodes if matches(node, shape)]
    ready = [node for node in matching if node.is_ready]
    return CandidateNodes(
        matching=len(matching),
        ready=frozenset(node.name for node in ready),
        capacity=sum(node.gpus[shape.resource] // shape.gpus for node in matching),
        ready_capacity=sum(node.gpus[shape.resource] // shape.gpus for node in ready),
    )
