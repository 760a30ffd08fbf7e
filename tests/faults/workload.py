"""The workload: what users do with their jobs, and the ends of their trainings."""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import dataclass
from typing import Literal, TypeVar

from tests.faults.history import History
from tests.faults.kinds import KINDS, MAX_SIZE, Kind
from tests.support.kubelet import Kubelet
from tests.support.manifests import Object
from tests.support.testbed import Testbed, phase
from trainyard.api.names import API_VERSION
from trainyard.cluster.client import collection
from trainyard.cluster.errors import ApiError
from trainyard_trainer.contract.exits import Result, TerminationMessage

MAX_JOBS = 10
"""Jobs at a time; all fit on the nodes when no node is faulty."""
MAX_FAILURES = 3
"""Of one job, as its restart backoff doubles each time."""
TRAINING_SECONDS = 0.5
REUSED_NAMES_SHARE = 0.2

T = TypeVar("T")
State = Literal["Running", "Suspended", "Complete", "deleted"]


@dataclass(slots=True)
class Job:
    """A job and its expected final state."""

    kind: Kind
    name: str
    uid: str
    size: int
    expected: State = "Running"
    failures: int = 0

    def __str__(self) -> str:
        return f"{self.name} ({self.uid[:8]}, size {self.size}, expected {self.expected})"


class Workload:
    """Random operations on jobs, sent over a connection without faults."""

    def __init__(self, testbed: Testbed, kubelet: Kubelet, history: History) -> None:
        self._testbed, self._kubelet, self._history = testbed, kubelet, history
        self.jobs: list[Job] = []

    def existing(self, *expected: State) -> list[Job]:
        """The jobs with these expected states; by default all but the deleted ones."""
        states = expected or ("Running", "Suspended", "Complete")
        return [job for job in self.jobs if job.expected in states]

    def path(self, job: Job) -> str:
        """The job's path."""
        return f"{self._collection(job.kind)}/{job.name}"

    async def perform(self, rng: random.Random) -> None:
        """Perform one random operation."""
        weights = {
            self.submit: 4,
            self.resize: 4,
            self.edit: 2,
            self.fail: 2,
            self.suspend: 2,
            self.resume: 3,
            self.delete: 2,
            self.complete: 1,
        }
        [operation] = rng.choices(list(weights), list(weights.values()))
        await operation(rng)

    async def submit(self, rng: random.Random) -> None:
        """Create a job, sometimes with the name of a deleted one; delete one if there are many."""
        if len(self.existing("Running", "Suspended")) >= MAX_JOBS:
            return await self.delete(rng)
        kind, size = rng.choice(KINDS), rng.randint(1, MAX_SIZE)
        used = {job.name for job in self.existing()}
        free = [job.name for job in self.jobs if job.name not in used]
        reuses = free and rng.random() < REUSED_NAMES_SHARE
        name = rng.choice(free) if reuses else f"job-{len(self.jobs)}"
        body = kind.make(name, self._testbed.namespace, size)
        created = await self._testbed.client.request("POST", self._collection(kind), body=body)
        self.jobs.append(Job(kind=kind, name=name, uid=created["metadata"]["uid"], size=size))
        return self._history.record("submit", f"{name} {size}")

    async def resize(self, rng: random.Random) -> None:
        """Scale a job, running or suspended."""
        if job := _choose(rng, self.existing("Running", "Suspended")):
            size = rng.randint(1, MAX_SIZE)
            job.size = size if job.kind.can_shrink else max(size, job.size)
            self._history.record("scale", f"{job.name} {job.size}")
            await self._update_spec(job, job.kind.size(job.size))

    async def edit(self, rng: random.Random) -> None:
        """Write a job while the operator writes its status."""
        if job := _choose(rng, self.existing("Running", "Suspended")):
            self._history.record("edit", job.name)
            await self._update_spec(job, {"activeDeadlineSeconds": 86_400 + rng.randint(0, 99)})

    async def suspend(self, rng: random.Random) -> None:
        """Suspend a job."""
        if job := _choose(rng, self.existing("Running")):
            job.expected = "Suspended"
            self._history.record("suspend", job.name)
            await self._update_spec(job, {"suspend": True})

    async def resume(self, rng: random.Random) -> None:
        """Resume a suspended job."""
        if job := _choose(rng, self.existing("Suspended")):
            job.expected = "Running"
            self._history.record("resume", job.name)
            await self._update_spec(job, {"suspend": False})

    async def delete(self, rng: random.Random) -> None:
        """Delete a job in any state."""
        if job := _choose(rng, self.existing()):
            job.expected = "deleted"
            self._history.record("delete", job.name)
            await self._testbed.client.delete(self.path(job))

    async def complete(self, rng: random.Random) -> None:
        """Let a training reach its end, which `train` reports."""
        if job := _choose(rng, self.existing("Running")):
            job.expected = "Complete"
            self._history.record("complete", job.name)

    async def fail(self, rng: random.Random) -> None:
        """Let a pod of a job fail."""
        job = _choose(rng, self.existing("Running"))
        if job is None or job.failures >= MAX_FAILURES:
            return
        if pod := _choose(rng, await self._running_pods(job)):
            job.failures += 1
            self._history.record("fail", pod["metadata"]["name"])
            with contextlib.suppress(ApiError):
                await self._kubelet.fail(pod, "a random failure")

    async def train(self) -> None:
        """End the pods of completed and suspended trainings, until cancelled."""
        while True:
            for job in self.existing("Complete", "Suspended"):
                with contextlib.suppress(ApiError):
                    await self._train(job)
            await asyncio.sleep(TRAINING_SECONDS)

    async def _train(self, job: Job) -> None:
        current = phase(await self._testbed.client.get(self.path(job)))
        active = ("Running", "Starting", "Rescaling", "Complete")
        if job.expected == "Suspended" and current == "Suspending":
            await self._end(job, Result.SUSPENDED, job.kind.trainers)
        elif job.expected == "Complete" and current in active:
            # The trainers first, as they upload the result.
            await self._end(job, Result.COMPLETE, job.kind.trainers)
            await self._end(job, Result.COMPLETE, "coordinator")

    async def _end(self, job: Job, result: Result, role: str) -> None:
        for pod in await self._running_pods(job, role):
            with contextlib.suppress(ApiError):
                await self._kubelet.end(pod, 0, message=TerminationMessage(result=result))

    async def _running_pods(self, job: Job, role: str = "") -> list[Object]:
        return [
            pod
            for pod in await self._testbed.pods(job.name, role)
            if pod["metadata"]["ownerReferences"][0]["uid"] == job.uid
            and pod["status"]["phase"] == "Running"
            and "deletionTimestamp" not in pod["metadata"]
            and pod["spec"]["nodeName"] not in self._kubelet.unreachable
        ]

    async def _update_spec(self, job: Job, spec: Object) -> None:
        await self._testbed.patch(self.path(job), {"spec": spec})

    def _collection(self, kind: Kind) -> str:
        return collection(API_VERSION, kind.plural, self._testbed.namespace)


def _choose(rng: random.Random, items: list[T]) -> T | None:
    return rng.choice(items) if items else None
