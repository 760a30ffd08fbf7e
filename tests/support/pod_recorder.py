"""A record of all pods of a testbed: the uids of every name in the order of their events."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field

from tests.support.manifests import Object
from tests.support.pod_watcher import PodWatcher
from tests.support.testbed import Testbed


@dataclass(slots=True)
class PodRecord:
    """The pods of one name."""

    created: list[str] = field(default_factory=list)
    """Their uids in the order of their creation."""
    deleted: list[str] = field(default_factory=list)
    """Their uids in the order of their deletion."""


class PodRecorder(PodWatcher):
    """Records the creations and deletions of a testbed's pods while the context lasts."""

    def __init__(self, testbed: Testbed, *, allows_existing: bool = False) -> None:
        super().__init__(testbed)
        self._allows_existing = allows_existing
        self.records: defaultdict[str, PodRecord] = defaultdict(PodRecord)
        self.creations = 0
        self.duplicates: list[str] = []
        """Names given to a new pod while another pod of that name existed."""

    async def begin(self, pods: list[Object]) -> None:
        """Record the existing pods, where they are allowed."""
        assert self._allows_existing or not pods, "pods exist before the recording"
        for pod in pods:
            await self.handle("ADDED", pod)

    async def wait_for_creations(self, number: int, seconds: float) -> bool:
        """Wait until that many pods have been created; returns False after the timeout."""
        try:
            async with asyncio.timeout(seconds):
                while self.creations < number:
                    await asyncio.sleep(0.002)
        except TimeoutError:
            return False
        return True

    def creation_counts(self) -> dict[str, int]:
        """The number of pods that were created by name."""
        return {name: len(record.created) for name, record in self.records.items()}

    async def handle(self, kind: str, pod: Object) -> None:
        """Record a creation or a deletion."""
        meta = pod["metadata"]
        record = self.records[meta["name"]]
        if kind == "ADDED":
            if len(record.deleted) < len(record.created):
                self.duplicates.append(meta["name"])
            record.created.append(meta["uid"])
            self.creations += 1
        elif kind == "DELETED":
            record.deleted.append(meta["uid"])
