"""What is kept for waiting jobs: nodes, and a part of what is free on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final

from trainyard.api.resources import is_extended
from trainyard.scheduling.shapes import ANY_RESOURCE, PodShape
from trainyard.scheduling.usage import ClusterUsage

_NO_NODES: Final[frozenset[str]] = frozenset()


class Reservations:
    """The nodes that could ever hold the pods of waiting jobs.

    No later job that competes for the same accelerators is placed there; the others get of CPU and
    memory what the waiting job could not use. A job without accelerators keeps nodes that have
    none, if these could hold it.
    """

    __slots__ = ("_closed", "_counts", "_limiting", "_reserved", "_usage", "limits")

    def __init__(self, usage: ClusterUsage) -> None:
        self._usage = usage
        self._counts: Counter[tuple[tuple[str, ...], frozenset[str]]] = Counter()
        """Jobs by what they compete for, and the nodes kept for them."""
        self._reserved: dict[tuple[PodShape, int], tuple[tuple[str, ...], frozenset[str]]] = {}
        """The reservations of jobs with equal pods, which are many."""
        self._closed: dict[str, frozenset[str]] = {}
        """The nodes kept, by the resource that is competed for."""
        self._limiting: set[PodShape] = set()
        self.limits: dict[str, dict[str, int]] = {}
        """By node, what jobs behind a waiting one may take of what it does not compete for."""

    def __len__(self) -> int:
        """The number of jobs that keep nodes."""
        return self._counts.total()

    def add(self, shape: PodShape, pods: int, plain: Mapping[str, Mapping[str, int]]) -> bool:
        """Keep nodes for a job of so many pods; whether that changes what others may have.

        `plain` is what pods without accelerators hold, by node.
        """
        if known := self._reserved.get((shape, pods)):
            self._counts[known] += 1
            return False
        nodes = self._nodes(shape, pods)
        self._reserved[shape, pods] = shape.contended, nodes
        self._counts[shape.contended, nodes] += 1
        for resource in shape.contended:
            self._closed[resource] = self._closed.get(resource, _NO_NODES) | nodes
        if not shape.accelerators or shape in self._limiting:
            return False  # closed nodes are excluded, whatever their limits
        self._limiting.add(shape)
        for name in nodes:
            self._limit(shape, name, plain.get(name, {}))
        return True

    def excluded(self, shape: PodShape) -> frozenset[str]:
        """The nodes that are kept for jobs that compete with the shape."""
        excluded = self._closed.get(ANY_RESOURCE, _NO_NODES)
        for resource in shape.contended:
            if closed := self._closed.get(resource):
                excluded = excluded | closed if excluded else closed
        return excluded

    def ahead_of(self, shape: PodShape, *, is_limited: bool) -> int:
        """How many jobs keep nodes that the shape could use.

        `is_limited`: what is withheld of CPU and memory leaves it less than is free.
        """
        ready = self._usage.candidates(shape).ready
        contended = {*shape.contended, ANY_RESOURCE}
        is_limited = is_limited and not shape.accelerators
        return sum(
            count
            for (resources, nodes), count in self._counts.items()
            if (is_limited or not contended.isdisjoint(resources)) and not nodes.isdisjoint(ready)
        )

    def _nodes(self, shape: PodShape, pods: int) -> frozenset[str]:
        nodes = self._usage.candidates(shape).attainable
        if shape.accelerators:
            return nodes
        without = nodes - self._usage.accelerated
        fitting = sum(shape.fits(self._usage.attainable[name]) for name in without)
        return without if fitting >= pods else nodes

    def _limit(self, shape: PodShape, name: str, plain: Mapping[str, int]) -> None:
        """Withhold CPU, memory and so on for all pods of the shape that a node could hold."""
        amounts = self._usage.attainable[name]
        pods, limits = shape.fits(amounts), self.limits.setdefault(name, {})
        for resource, needed in shape.requests:
            if not is_extended(resource):
                left = amounts.get(resource, 0) - pods * needed - plain.get(resource, 0)
                limits[resource] = min(left, limits.get(resource, left))
