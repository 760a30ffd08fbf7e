"""How many workers of one shape fit on each node, kept up to date as workers are placed.

An index: the node that fits best is found without visiting all of them, which is what a decision
about a thousand waiting jobs does most.
"""

from __future__ import annotations

from collections.abc import Mapping
from heapq import heapify, heappop, heappush


class NodeCapacityIndex:
    """Workers that fit now, node by node; full nodes are left out."""

    __slots__ = ("_by_capacity", "_capacity", "_gpus", "_nodes", "total")

    def __init__(self, free: Mapping[str, int], nodes: frozenset[str], gpus: int) -> None:
        self._nodes, self._gpus = nodes, gpus
        self._capacity = {name: free[name] // gpus for name in nodes if free[name] >= gpus}
        self._by_capacity: dict[int, list[str]] = {}
        """Heaps of node names; a node may still be in the heaps of earlier capacities."""
        for name, capacity in self._capacity.items():
            self._by_capacity.setdefault(capacity, []).append(name)
        for heap in self._by_capacity.values():
            heapify(heap)
        self.total = sum(self._capacity.values())
        """Workers that fit on all nodes together."""

    def update(self, name: str, free: int) -> None:
        """Set the number of a node's free GPUs; a node outside the index does not matter."""
        if name not in self._nodes:
            return
        capacity, previous = max(free // self._gpus, 0), self._capacity.pop(name, 0)
        self.total += capacity - previous
        if capacity:
            self._capacity[name] = capacity
            heappush(self._by_capacity.setdefault(capacity, []), name)

    def pack(self, workers: int) -> list[tuple[str, int]]:
        """Spread workers over few nodes: fill the largest, then best fit for the remainder."""
        if (name := self._best_fit(workers)) is not None:
            return [(name, workers)]
        chosen = []
        for name in sorted(self._capacity, key=lambda name: (-self._capacity[name], name)):
            if workers <= self._capacity[name]:
                break
            chosen.append((name, self._capacity[name]))
            workers -= self._capacity[name]
        taken = {name for name, _ in chosen}
        enough = [
            (capacity, name)
            for name, capacity in self._capacity.items()
            if capacity >= workers and name not in taken
        ]
        if workers and enough:
            chosen.append((min(enough)[1], workers))
        return chosen

    def _best_fit(self, workers: int) -> str | None:
        """The node with the least capacity that is enough, by name among equals."""
        for capacity in sorted(size for size in self._by_capacity if size >= workers):
            heap = self._by_capacity[capacity]
            while heap and self._capacity.get(heap[0]) != capacity:
                heappop(heap)
            if heap:
                return heap[0]
            del self._by_capacity[capacity]
        return None
