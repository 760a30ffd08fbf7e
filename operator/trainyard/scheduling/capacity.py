"""What is free, and how many pods of one shape fit.

Reservations, admission and growth share one ledger per allocation, so that they count the same
resources once. Where a pod really goes is kube-scheduler's choice; the ledger packs jobs on few
nodes, to know that a placement exists, and the pods of a job prefer the nodes that it chose.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, NamedTuple

from trainyard.api.names import Key
from trainyard.scheduling.packing import NodeCapacityIndex
from trainyard.scheduling.reservations import Reservations
from trainyard.scheduling.shapes import PodShape
from trainyard.scheduling.usage import CandidateNodes, ClusterUsage, subtract

_NO_NODES: Final[frozenset[str]] = frozenset()
_MAX_INDEXES: Final = 64
"""Indexes kept at a time: each costs a little with every pod placed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortfall:
    """The resource of which a node has least for pods of a shape."""

    node: str
    resource: str
    free: int
    needed: int
    accelerators: int
    """Free accelerators of the first kind that the pod requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Availability:
    """What a shape can have now."""

    free: int
    """Free accelerators on the ready nodes that match; of a shape without any, pods that fit."""
    nodes: int
    """Number of those nodes that have any free."""
    jobs_ahead: int
    """Waiting jobs that have reserved any of those nodes."""
    shortfall: Shortfall | None = None
    """The node that lacks most for another pod, beside accelerators."""


class Basis(Enum):
    """What a ledger begins with."""

    FREE = auto()
    """What no pod holds, on ready nodes."""
    ATTAINABLE = auto()
    """What no pod holds but those of our jobs, on ready nodes."""
    EMPTY = auto()
    """What is allocatable, on all nodes."""


class _Placement(NamedTuple):
    shape: PodShape
    node: str
    pods: int
    owner: Key | None


class _IndexKey(NamedTuple):
    shape: PodShape
    excluded: frozenset[str]
    is_limited: bool
    """Whether what is withheld for waiting jobs does not count as free."""


class Ledger:
    """Free resources, node by node, while one allocation is worked out.

    The only mutable object of these rules; it is made and dropped inside one `allocate`.
    Answers are cached until the next change, as many jobs have equal shapes.
    """

    __slots__ = (
        "_availability",
        "_basis",
        "_by_accelerators",
        "_free",
        "_hypothetical",
        "_indexes",
        "_placements",
        "_plain",
        "_reservations",
        "usage",
    )

    def __init__(self, usage: ClusterUsage, basis: Basis = Basis.FREE) -> None:
        self.usage, self._basis = usage, basis
        if basis is Basis.EMPTY:
            self._free = {node.name: dict(node.allocatable) for node in usage.matcher.nodes}
        else:
            start = usage.free if basis is Basis.FREE else usage.attainable
            self._free = {name: dict(amounts) for name, amounts in start.items()}
        self._plain = {name: dict(amounts) for name, amounts in usage.plain.items()}
        self._reservations = Reservations(usage)
        self._indexes: dict[_IndexKey, NodeCapacityIndex] = {}
        self._availability: dict[PodShape, tuple[int, int, Shortfall | None]] = {}
        self._by_accelerators: dict[PodShape, int] = {}
        self._placements: list[_Placement] = []
        self._hypothetical: dict[Basis, Ledger] = {}

    def candidates(self, shape: PodShape) -> CandidateNodes:
        """The nodes that match the shape."""
        return self.usage.candidates(shape)

    def slots(self, shape: PodShape, *, include_reserved: bool = False) -> int:
        """How many pods of the shape fit now, by default beside what is reserved."""
        if include_reserved:
            return self._index(shape, _NO_NODES, is_limited=False).total
        return self._index(shape, self._reservations.excluded(shape)).total

    def slots_by_accelerators(self, shape: PodShape) -> int:
        """How many would fit, reserved nodes included, if only accelerators counted."""
        if shape not in self._by_accelerators:
            alone = PodShape(requests=shape.accelerators)
            fitting = (alone.fits(self._free[name]) for name in self._usable(shape))
            self._by_accelerators[shape] = sum(fitting)
        return self._by_accelerators[shape]

    def availability(self, shape: PodShape) -> Availability:
        """What is free on the nodes that match, and how many jobs wait for them."""
        if shape not in self._availability:
            self._availability[shape] = self._count_free(shape)
        free, nodes, shortfall = self._availability[shape]
        return Availability(
            free=free, nodes=nodes, jobs_ahead=self._jobs_ahead(shape), shortfall=shortfall
        )

    def take(
        self,
        shape: PodShape,
        pods: int,
        *,
        avoid: frozenset[str] = _NO_NODES,
        owner: Key | None = None,
    ) -> int:
        """Place up to `pods` outside reserved and avoided nodes; returns how many fitted.

        Pods without accelerators go to nodes that have none, where possible.
        """
        taken = 0
        if not shape.accelerators:
            taken = self._fill(shape, pods, avoid | self.usage.accelerated, owner)
        return taken + self._fill(shape, pods - taken, avoid, owner)

    def take_gang(
        self, shapes: Mapping[PodShape, int], *, owner: Key | None = None
    ) -> tuple[PodShape, ...]:
        """Place all of a gang or nothing; returns the shapes that did not fit.

        The most constrained go first, as others can go elsewhere. That is no proof: a gang whose
        shapes share nodes in an odd way may not fit where a search would find a placement.
        """
        mark = self.mark()
        order = sorted(shapes, key=self._most_constrained_first)
        unplaced = [s for s in order if self.take(s, shapes[s], owner=owner) < shapes[s]]
        if unplaced:
            self.undo(mark)
        return tuple(unplaced)

    def unplaceable(self, shapes: Mapping[PodShape, int], basis: Basis) -> tuple[PodShape, ...]:
        """The shapes of a gang that would not fit if the ledger began with something else."""
        if basis not in self._hypothetical:
            self._hypothetical[basis] = Ledger(self.usage, basis)
        ledger = self._hypothetical[basis]
        unplaced = ledger.take_gang(shapes)
        ledger.undo(0)
        return unplaced

    def mark(self) -> int:
        """The present state, for `undo`."""
        return len(self._placements)

    def undo(self, mark: int) -> None:
        """Take back what was placed since `mark`."""
        while len(self._placements) > mark:
            shape, node, pods, _ = self._placements.pop()
            self._use(shape, node, -pods)

    def nodes_by_owner(self) -> dict[Key, dict[PodShape, set[str]]]:
        """The nodes that pods were placed on, by job."""
        found: dict[Key, dict[PodShape, set[str]]] = {}
        for placement in self._placements:
            if placement.owner is not None:
                by_shape = found.setdefault(placement.owner, {})
                by_shape.setdefault(placement.shape, set()).add(placement.node)
        return found

    def reserve(self, shape: PodShape, pods: int) -> None:
        """Keep nodes for a waiting job of so many pods; see `Reservations`."""
        if self._reservations.add(shape, pods, self._plain):
            self._indexes = {k: i for k, i in self._indexes.items() if not k.is_limited}

    def _fill(self, shape: PodShape, pods: int, avoid: frozenset[str], owner: Key | None) -> int:
        if pods <= 0:
            return 0
        chosen = self._index(shape, avoid | self._reservations.excluded(shape)).pack(pods)
        for node, count in chosen:
            self._use(shape, node, count)
            self._placements.append(_Placement(shape, node, count, owner))
        return sum(count for _, count in chosen)

    def _use(self, shape: PodShape, node: str, pods: int) -> None:
        requests = dict(shape.requests)
        subtract(self._free[node], requests, pods)
        if not shape.accelerators:
            subtract(self._plain.setdefault(node, {}), requests, -pods)
        if limits := self._reservations.limits.get(node):
            subtract(limits, {r: n for r, n in requests.items() if r in limits}, pods)
        for key, index in self._indexes.items():
            if node in index:
                index.update(node, self._capacity(key.shape, node, is_limited=key.is_limited))
        self._availability.clear()
        self._by_accelerators.clear()

    def _capacity(self, shape: PodShape, node: str, *, is_limited: bool) -> int:
        pods = shape.fits(self._free[node])
        limits = self._reservations.limits.get(node)
        if not is_limited or not pods or not limits:
            return pods
        within = (max(limits[r], 0) // n for r, n in shape.requests if r in limits)
        return min(pods, *within)

    def _index(
        self, shape: PodShape, excluded: frozenset[str], *, is_limited: bool = True
    ) -> NodeCapacityIndex:
        key = _IndexKey(shape, excluded, is_limited)
        if key not in self._indexes:
            if len(self._indexes) >= _MAX_INDEXES:
                self._indexes.clear()
            names = self._usable(shape) - excluded
            self._indexes[key] = NodeCapacityIndex(
                {name: self._capacity(shape, name, is_limited=is_limited) for name in names}
            )
        return self._indexes[key]

    def _usable(self, shape: PodShape) -> frozenset[str]:
        if self._basis is Basis.EMPTY:
            return frozenset(node.name for node in self.usage.matcher.matching(shape))
        return self.candidates(shape).ready

    def _jobs_ahead(self, shape: PodShape) -> int:
        if not self._reservations:
            return 0
        is_limited = self.slots(shape) < self.slots(shape, include_reserved=True)
        return self._reservations.ahead_of(shape, is_limited=is_limited)

    def _count_free(self, shape: PodShape) -> tuple[int, int, Shortfall | None]:
        """What is free, on how many nodes, and which node lacks something else."""
        accelerators = shape.accelerators
        alone = PodShape(requests=accelerators)
        free, short = [], []
        for name in self.candidates(shape).ready:
            amounts = self._free[name]
            pods = shape.fits(amounts)
            count = amounts.get(accelerators[0][0], 0) if accelerators else pods
            if count > 0:
                free.append(count)
            if not accelerators or pods < alone.fits(amounts):
                short.append((pods, name))
        return sum(free), len(free), self._shortfall(shape, min(short)[1]) if short else None

    def _shortfall(self, shape: PodShape, node: str) -> Shortfall:
        amounts = self._free[node]
        resource = shape.scarcest_in(amounts)
        return Shortfall(
            node=node,
            resource=resource,
            free=max(amounts.get(resource, 0), 0),
            needed=dict(shape.requests)[resource],
            accelerators=sum(amounts.get(r, 0) for r, _ in shape.accelerators[:1]),
        )

    def _most_constrained_first(
        self, shape: PodShape
    ) -> tuple[int, tuple[int, ...], tuple[tuple[str, str], ...], tuple[tuple[str, int], ...]]:
        amounts = tuple(-amount for _, amount in shape.requests)
        return len(self.candidates(shape).ready), amounts, shape.selector, shape.requests


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
        shared = {place for shape in found for place in _places(shape, ledger)}
        more = {shape for shape in left if not shared.isdisjoint(_places(shape, ledger))}
        found |= more
        has_grown = bool(more)
    return found


def _places(shape: PodShape, ledger: Ledger) -> set[tuple[str, str]]:
    """What the shape competes for: resources of nodes."""
    ready = ledger.candidates(shape).ready
    return {(resource, name) for resource in shape.contended for name in ready}
