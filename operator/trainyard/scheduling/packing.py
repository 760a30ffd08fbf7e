"""How many pods of one shape fit on each node, kept up to date as pods are placed.

An index: the node that fits best is found without visiting all of them, which is what a decision
about a thousand waiting jobs does most.
"""

from __future__ import annotations

from collections.abc import Mapping
from heapq import heapify, heappop, heappush


class NodeCapacityIndex:
    """Pods that fit now, node by node; full nodes are left out."""

    __slots__ = ("_by_capacity", "_capacity", "_nodes", "total")

    def __init__(self, capacities: Mapping[str, int]) -> None:
        self._nodes = frozenset(capacities)
        self._capacity = {name: count for name, count in capacities.items() if count > 0}
        self._by_capacity: dict[int, list[str]] = {}
        """Heaps of node names; a node may still be in the heaps of earlier capacities."""
        for name, capacity in self._capacity.items():
            self._by_capacity.setdefault(capacity, []).append(name)
        for heap in self._by_capacity.values():
            heapify(heap)
        self.total = sum(self._capacity.values())
        """Pods that fit on all nodes together."""

    def __contains__(self, name: str) -> bool:
        """Whether the index is about this node, full or not."""
        return name in self._nodes

    def update(self, name: str, capacity: int) -> None:
        """Set how many pods fit on a node; a node outside the index does not matter."""
        capacity, previous = max(capacity, 0), self._capacity.get(name, 0)
        if name not in self._nodes or capacity == previous:
            return
        self._capacity.pop(name, None)
        self.total += capacity - previous
        if capacity:
            self._capacity[name] = capacity
            heappush(self._by_capacity.setdefault(capacity, []), name)

    def pack(self, pods: int) -> list[tuple[str, int]]:
        """Spread pods over few nodes: fill the largest, then best fit for the remainder."""
        if (name := self._best_fit(pods)) is not None:
            return [(name, pods)]
        chosen = []
        for name in sorted(self._capacity, key=lambda name: (-self._capacity[name], name)):
            if pods <= self._capacity[name]:
                break
            chosen.append((name, self._capacity[name]))
            pods -= self._capacity[name]
        taken = {name for name, _ in chosen}
        enough = [
            (capacity, name)
            for name, capacity in self._capacity.items()
            if capacity >= pods and name not in taken
        ]
        if pods and enough:
            chosen.append((min(enough)[1], pods))
        return chosen

    def _best_fit(self, pods: int) -> str | None:
        """The node with the least capacity that is enough, by name among equals."""
        for capacity in sorted(size for size in self._by_capacity if size >= pods):
            heap = self._by_capacity[capacity]
            while heap and self._capacity.get(heap[0]) != capacity:
                heappop(heap)
            if heap:
                return heap[0]
            del self._by_capacity[capacity]
        return None
