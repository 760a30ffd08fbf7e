"""What users want of their jobs, change their minds about, and what their trainings do."""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import dataclass
from typing import Literal, TypeVar

from tests.faults.chronicle import Chronicle
from tests.faults.kinds import KINDS, LARGEST, Kind
from tests.support.kubelet import Kubelet
from tests.support.manifests import Object
from tests.support.testbed import Testbed, phase
from trainyard.api.names import API_VERSION
from trainyard.cluster.client import ApiError, collection
from trainyard_trainer.contract.exits import Result, TerminationMessage

MOST_JOBS = 10
"""Alive at a time; all of them fit on the nodes when all nodes are there."""
MOST_FAILURES = 3
"""Of one job, as the pauses between its restarts double each time."""
TRAINING_SECONDS = 0.5

T = TypeVar("T")
End = Literal["Running", "Suspended", "Complete", "deleted"]


@dataclass(slots=True)
class Job:
    """A job, and how it is to end."""

    kind: Kind
    name: str
    uid: str
    size: int
    wanted: End = "Running"
    failures: int = 0

    def __str__(self) -> str:
        return f"{self.name} ({self.uid[:8]}, size {self.size}, to end {self.wanted})"


class Users:
    """They act on a connection that never fails, and note what they want."""

    def __init__(self, testbed: Testbed, kubelet: Kubelet, chronicle: Chronicle) -> None:
        self._testbed, self._kubelet, self._chronicle = testbed, kubelet, chronicle
        self.jobs: list[Job] = []

    def alive(self, *wanted: End) -> list[Job]:
        """Jobs that are to end so; all that are not to be deleted, without arguments."""
        ends = wanted or ("Running", "Suspended", "Complete")
        return [job for job in self.jobs if job.wanted in ends]

    def path(self, job: Job) -> str:
        """Where the job is."""
        return f"{collection(API_VERSION, job.kind.plural, self._testbed.namespace)}/{job.name}"

    async def act(self, dice: random.Random) -> None:
        """One thing that somebody does."""
        acts = {
            self.submit: 4,
            self.resize: 4,
            self.edit: 2,
            self.fail: 2,
            self.suspend: 2,
            self.resume: 3,
            self.delete: 2,
            self.complete: 1,
        }
        [act] = dice.choices(list(acts), list(acts.values()))
        await act(dice)

    async def submit(self, dice: random.Random) -> None:
        """A new job; now and then under the name of one that was deleted."""
        if len(self.alive("Running", "Suspended")) >= MOST_JOBS:
            return await self.delete(dice)
        kind, size = dice.choice(KINDS), dice.randint(1, LARGEST)
        taken = {job.name for job in self.alive()}
        old = [job.name for job in self.jobs if job.name not in taken]
        name = dice.choice(old) if old and dice.random() < 0.2 else f"job-{len(self.jobs)}"
        where = collection(API_VERSION, kind.plural, self._testbed.namespace)
        body = kind.make(name, self._testbed.namespace, size)
        made = await self._testbed.client.request("POST", where, body=body)
        self.jobs.append(Job(kind=kind, name=name, uid=made["metadata"]["uid"], size=size))
        return self._chronicle.did("submit", f"{name} {size}")

    async def resize(self, dice: random.Random) -> None:
        """Scale a job, running or suspended."""
        if job := _any(dice, self.alive("Running", "Suspended")):
            size = dice.randint(1, LARGEST)
            job.size = size if job.kind.can_shrink else max(size, job.size)
            self._chronicle.did("scale", f"{job.name} {job.size}")
            await self._change(job, job.kind.size(job.size))

    async def edit(self, dice: random.Random) -> None:
        """Write a job while the operator writes its status."""
        if job := _any(dice, self.alive("Running", "Suspended")):
            self._chronicle.did("edit", job.name)
            await self._change(job, {"activeDeadlineSeconds": 86_400 + dice.randint(0, 99)})

    async def suspend(self, dice: random.Random) -> None:
        """Suspend a job."""
        if job := _any(dice, self.alive("Running")):
            job.wanted = "Suspended"
            self._chronicle.did("suspend", job.name)
            await self._change(job, {"suspend": True})

    async def resume(self, dice: random.Random) -> None:
        """Let a suspended job go on."""
        if job := _any(dice, self.alive("Suspended")):
            job.wanted = "Running"
            self._chronicle.did("resume", job.name)
            await self._change(job, {"suspend": False})

    async def delete(self, dice: random.Random) -> None:
        """Delete a job, whatever it does."""
        if job := _any(dice, self.alive()):
            job.wanted = "deleted"
            self._chronicle.did("delete", job.name)
            await self._testbed.client.delete(self.path(job))

    async def complete(self, dice: random.Random) -> None:
        """A training has reached its end, as its pods will say."""
        if job := _any(dice, self.alive("Running")):
            job.wanted = "Complete"
            self._chronicle.did("complete", job.name)

    async def fail(self, dice: random.Random) -> None:
        """A pod of a job fails."""
        job = _any(dice, self.alive("Running"))
        if job is None or job.failures >= MOST_FAILURES:
            return
        if pod := _any(dice, await self._running_pods(job)):
            job.failures += 1
            self._chronicle.did("fail", pod["metadata"]["name"])
            with contextlib.suppress(ApiError):
                await self._kubelet.fail(pod, "it was its time")

    async def train(self) -> None:
        """What trainings do by themselves: they end, and stop when they are told; for ever."""
        while True:
            for job in self.alive("Complete", "Suspended"):
                with contextlib.suppress(ApiError):
                    await self._train(job)
            await asyncio.sleep(TRAINING_SECONDS)

    async def _train(self, job: Job) -> None:
        now = phase(await self._testbed.client.get(self.path(job)))
        if job.wanted == "Suspended" and now == "Suspending":
            await self._end(job, Result.SUSPENDED, job.kind.trainers)
        elif job.wanted == "Complete" and now in ("Running", "Starting", "Rescaling", "Complete"):
            # The trainers first, as they hand the result over.
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

    async def _change(self, job: Job, spec: Object) -> None:
        await self._testbed.patch(self.path(job), {"spec": spec})


def _any(dice: random.Random, items: list[T]) -> T | None:
    return dice.choice(items) if items else None
