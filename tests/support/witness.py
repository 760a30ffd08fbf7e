"""An independent watcher of pods: every name and uid ever seen, in the order of their events."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from tests.support.manifests import Object
from tests.support.watching import watch_pods
from tests.support.yard import Yard


@dataclass(slots=True)
class Sightings:
    """What was seen under one name."""

    born: list[str] = field(default_factory=list)
    """The uids, in the order of their creation."""
    died: list[str] = field(default_factory=list)
    """The uids, in the order of their deletion."""


class Witness:
    """Watches a yard's pods while the context lasts."""

    def __init__(self, yard: Yard, *, begins_empty: bool = True) -> None:
        self._yard, self._begins_empty = yard, begins_empty
        self._task: asyncio.Task[None] | None = None
        self.seen: defaultdict[str, Sightings] = defaultdict(Sightings)
        self.births = 0
        self.twins: list[str] = []
        """Names that were given to a new pod while another of that name was still there."""

    async def __aenter__(self) -> Self:
        listed = await self._yard.kube.get(self._yard.path("pods"))
        if self._begins_empty:
            assert not listed["items"], "the witness comes before the first pod"
        for pod in listed["items"]:
            self._note("ADDED", pod["metadata"])
        version = listed["metadata"]["resourceVersion"]
        self._task = asyncio.create_task(self._watch(version), name="witness")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

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

    async def _watch(self, version: str) -> None:
        async for kind, pod in watch_pods(self._yard, version):
            self._note(kind, pod["metadata"])

    def _note(self, kind: str, meta: Object) -> None:
        here = self.seen[meta["name"]]
        if kind == "ADDED":
            if len(here.died) < len(here.born):
                self.twins.append(meta["name"])
            here.born.append(meta["uid"])
            self.births += 1
        elif kind == "DELETED":
            here.died.append(meta["uid"])
