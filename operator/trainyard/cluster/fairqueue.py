"""PURE: fair queueing between the namespaces, for requests and for reconciles.

A webhook or a coordinator that takes ten seconds holds what its namespace has under way for as
long. The rules here keep that from being all that there is.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Shares:
    """Slots that no group can use up.

    A group has at most `share` slots, and never more than are still free (dynamic thresholds,
    Choudhury and Hahne, 1998): however many groups are slow, the next one finds free slots.
    """

    def __init__(self, slots: int, share: int) -> None:
        self.slots, self._share = slots, share
        self._free = slots
        self._held: Counter[Hashable] = Counter()

    def has_slot(self, group: Hashable) -> bool:
        """Whether the group may take a slot now."""
        return self._held[group] < min(self._share, self._free)

    @property
    def is_full(self) -> bool:
        """Whether no group may take a slot."""
        return self._free <= 0

    def take(self, group: Hashable) -> None:
        """Take a slot for the group."""
        self._free -= 1
        self._held[group] += 1

    def release(self, group: Hashable) -> None:
        """Give a slot of the group back."""
        self._free += 1
        self._held[group] -= 1
        if not self._held[group]:
            del self._held[group]


class RoundRobin(Generic[T]):
    """One first-in-first-out queue for each group, served in turn."""

    def __init__(self) -> None:
        self._queues: dict[Hashable, deque[T]] = {}
        """In the order in which they are served; none is empty."""

    def put(self, group: Hashable, item: T) -> None:
        """Append an item to its group's queue."""
        self._queues.setdefault(group, deque()).append(item)

    def get(self, shares: Shares) -> T | None:
        """Remove the first item of the first group that may take a slot; None without one."""
        if shares.is_full:
            return None  # without a search through all groups
        group = next((group for group in self._queues if shares.has_slot(group)), None)
        if group is None:
            return None
        queue = self._queues.pop(group)
        item = queue.popleft()
        if queue:
            self._queues[group] = queue  # served last next time
        return item
