"""An independent watcher of pods: every name and uid ever seen, in the order of their events."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field

from tests.support.manifests import Object
from tests.support.testbed import Testbed
from tests.support.watching import PodWatcher


@dataclass(slots=True)
class Sightings:
    """What was seen under one name."""

    born: list[str] = field(default_factory=list)
    """The uids, in the order of their creation."""
    died: list[str] = field(default_factory=list)
    """The uids, in the order of their deletion."""


class Witness(PodWatcher):
    """Watches a testbed's pods while the context lasts."""

    def __init__(self, testbed: Testbed, *, begins_empty: bool = True) -> None:
        super().__init__(testbed)
        self._begins_empty = begins_empty
        self.seen: defaultdict[str, Sightings] = defaultdict(Sightings)
        self.births = 0
        self.twins: list[str] = []
        """Names that were given to a new pod while another of that name was still there."""

    async def begin(self, pods: list[Object]) -> None:
        """Note those that are there already, where that is allowed."""
        assert not (pods and self._begins_empty), "the witness comes before the first pod"
        for pod in pods:
            await self.handle("ADDED", pod)

    async def until_births(self, number: int, seconds: float) -> bool:
        """Wait until so many pods have been created, or a while; says which."""
        try:
            async with asyncio.timeout(seconds):
                while self.births < number:
                    await asyncio.sleep(0.002)
        except TimeoutError:
            return False
        return True

    def created(self) -> dict[str, int]:
        """How many pods were ever created, by name."""
        return {name: len(sightings.born) for name, sightings in self.seen.items()}

    async def handle(self, kind: str, pod: Object) -> None:
        """Note a birth or a death."""
        meta = pod["metadata"]
        here = self.seen[meta["name"]]
        if kind == "ADDED":
            if len(here.died) < len(here.born):
                self.twins.append(meta["name"])
            here.born.append(meta["uid"])
            self.births += 1
        elif kind == "DELETED":
            here.died.append(meta["uid"])
