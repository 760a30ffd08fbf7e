"""What all hostile actors have in common: a namespace, nodes with a kubelet, and one attack."""

from __future__ import annotations

import contextlib
import itertools
import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from tests.faults.history import History
from tests.support.coordinators import CoordinatorKubelet, PlayedCoordinator
from tests.support.manifests import Object
from tests.support.testbed import Testbed
from trainyard.api.names import DISTRIBUTED_JOB
from trainyard.cluster.errors import ApiError

MANY_RESTARTS = {"maxRestarts": 10_000}


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What an actor finds in the cluster besides its own namespace."""

    honest: Sequence[Testbed]
    history: History
    folder: Path
    """For files of the actors."""


class Actor(ABC):
    """One kind of attack from a namespace of its own; it acts again and again, once at a time."""

    name: ClassVar[str]
    gpus: ClassVar[tuple[int, ...]] = ()
    """Of the actor's own nodes, which no other namespace's pods tolerate."""

    def __init__(self, testbed: Testbed, surroundings: Surroundings) -> None:
        self.testbed, self.client = testbed, testbed.client
        self.surroundings = surroundings
        self.played: dict[str, PlayedCoordinator] = {}
        """The coordinators of its jobs that answer."""
        self.kubelet = CoordinatorKubelet(testbed, self.played)
        self._numbers = itertools.count()
        self._jobs: list[tuple[str, str]] = []
        """Kind and name of those that `clear` deletes."""

    async def open(self, stack: contextlib.AsyncExitStack) -> None:
        """Add the nodes and start their kubelet, which ends with the stack."""
        if self.gpus:
            await stack.enter_async_context(self.kubelet)
            await self.testbed.add_nodes(*self.gpus, is_attended=False)

    @abstractmethod
    async def act(self, rng: random.Random) -> None:
        """Attack once and undo it; returns only after the attack has had its immediate effect."""

    def new_name(self, prefix: str) -> str:
        """A name that no job of this actor had before; `clear` deletes the job."""
        return self.register(f"{prefix}-{next(self._numbers)}")

    def register(self, name: str, kind: str = DISTRIBUTED_JOB) -> str:
        """Let `clear` delete the job."""
        self._jobs.append((kind, name))
        return name

    async def submit(self, prefix: str, replicas: int = 1, **options: Any) -> str:
        """Submit a DistributedJob with a new name; see `manifests.job`."""
        name = self.new_name(prefix)
        await self.testbed.submit(name, replicas, **options)
        return name

    async def clear(self) -> None:
        """Delete the jobs of this attack; their pods go with them."""
        for kind, name in self._jobs:
            await self.client.delete(f"{self.testbed.jobs_path(kind)}/{name}")
        self._jobs.clear()
        self.played.clear()

    async def running(self, job: str, role: str = "") -> list[Object]:
        """The job's running pods."""
        return [
            pod
            for pod in await self.testbed.pods(job, role)
            if pod["status"]["phase"] == "Running" and "deletionTimestamp" not in pod["metadata"]
        ]

    async def end_all(self, job: str, exit_code: int, **options: Any) -> int:
        """End the job's running pods; returns their number. See `Kubelet.end`."""
        ended = 0
        for pod in await self.running(job):
            with contextlib.suppress(ApiError):  # the operator was faster
                await self.kubelet.end(pod, exit_code, **options)
                ended += 1
        return ended
