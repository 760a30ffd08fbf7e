"""How many workers of one shape fit on each node, kept up to date as places are taken.

It stands apart from the ledger because it is an index and nothing more: the tightest node is found
without looking at all of them, which is what a decision about a thousand waiting jobs does most.
"""

from __future__ import annotations

from collections.abc import Mapping
from heapq import heapify, heappop, heappush


class NodeCapacityIndex:
    """Workers that fit now, node by node; nodes without room are left out."""

    __slots__ = ("_at", "_gpus", "_names", "_nodes", "total")

    def __init__(self, free: Mapping[str, int], nodes: frozenset[str], gpus: int) -> None:
        self._nodes, self._gpus = nodes, gpus
        self._at = {name: free[name] // gpus for name in nodes if free[name] >= gpus}
        self._names: dict[int, list[str]] = {}
        """By room a heap of names, among them those that have another room by now."""
        for name, room in self._at.items():
            self._names.setdefault(room, []).append(name)
        for heap in self._names.values():
            heapify(heap)
        self.total = sum(self._at.values())
        """Workers that fit on all nodes together."""

    def change(self, name: str, free: int) -> None:
        """Note that a node has so many free GPUs now; one that is not ours does not matter."""
        if name not in self._nodes:
            return
        room, was = max(free // self._gpus, 0), self._at.pop(name, 0)
        self.total += room - was
        if room:
            self._at[name] = room
            heappush(self._names.setdefault(room, []), name)

    def pack(self, workers: int) -> list[tuple[str, int]]:
        """Spread workers over few nodes: whole roomy ones, then the one where they fit tightest."""
        if (name := self._tightest(workers)) is not None:
            return [(name, workers)]
        chosen = []
        for name in sorted(self._at, key=lambda name: (-self._at[name], name)):
            if workers <= self._at[name]:
                break
            chosen.append((name, self._at[name]))
            workers -= self._at[name]
        taken = {name for name, _ in chosen}
        enough = [(r, name) for name, r in self._at.items() if r >= workers and name not in taken]
        if workers and enough:
            chosen.append((min(enough)[1], workers))
        return chosen

    def _tightest(self, workers: int) -> str | None:
        """The node with the least room that is enough, by name among equals."""
        for room in sorted(room for room in self._names if room >= workers):
            heap = self._names[room]
            while heap and self._at.get(heap[0]) != room:
                heappop(heap)
            if heap:
                return heap[0]
            del self._names[room]
        return None
