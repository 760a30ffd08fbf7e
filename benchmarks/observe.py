"""Time stamps by watches: when each pod existed, when it ran, when each status was Running.

The clock is that of the process that also creates the jobs, so that a difference is a latency.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from types import TracebackType

import aiohttp
import msgspec

from trainyard.api import names
from trainyard.cluster.client import KubeClient, collection

RUNNING = "Running"
_POLL_SECONDS = 0.01
_NO_LIMIT = aiohttp.ClientTimeout(total=None, connect=10)


class Labels(msgspec.Struct, rename={"job": names.LABEL_JOB, "role": names.LABEL_ROLE}):
    """The labels that tie a pod to its job."""

    job: str = ""
    role: str = ""


class Meta(msgspec.Struct, rename="camel"):
    """An object's identity."""

    name: str
    uid: str = ""
    resource_version: str = ""
    labels: Labels = msgspec.field(default_factory=Labels)


class Status(msgspec.Struct, rename="camel"):
    """The fields of a pod's or a job's status that are timed."""

    phase: str = ""
    replicas: int = 0


class Spec(msgspec.Struct, rename="camel"):
    """Where a pod runs; empty until it is bound, and in a job."""

    node_name: str = ""


class KubeObject(msgspec.Struct):
    """A pod or a job; all else in it is skipped without being decoded."""

    metadata: Meta
    spec: Spec = msgspec.field(default_factory=Spec)
    status: Status = msgspec.field(default_factory=Status)


class Event(msgspec.Struct):
    """One line of a watch."""

    type: str
    object: KubeObject


@dataclass(slots=True)
class Stamps:
    """What was seen of one job, and when (`time.monotonic`)."""

    requested_at: float
    """Just before the request that creates it was sent."""
    pods: dict[str, float] = field(default_factory=dict)
    running: dict[str, float] = field(default_factory=dict)
    status_at: float | None = None


class WatchEndedError(Exception):
    """A watch cannot be taken up where it ended, so that the stamps would have holes."""


async def version_of(client: KubeClient, path: str) -> str:
    """The present resource version of a collection, after which a watch misses nothing."""
    return str((await client.get(f"{path}?limit=1"))["metadata"]["resourceVersion"])


async def watch(client: KubeClient, path: str, version: str) -> AsyncIterator[tuple[Event, float]]:
    """Every event of a collection after that version, and when it arrived.

    The API server hangs up on a watcher that lags for a moment; the next takes up from there.
    """
    decode = msgspec.json.Decoder(Event).decode
    while True:
        async for line, at in _lines(client, f"{path}?watch=1&resourceVersion={version}"):
            event = decode(line)
            if event.type == "ERROR":
                raise WatchEndedError(f"{path}: {line.decode()}")
            version = event.object.metadata.resource_version
            yield event, at


async def _lines(client: KubeClient, path: str) -> AsyncIterator[tuple[bytes, float]]:
    """Each line of an answer that does not end, and when it arrived."""
    async with client.session.get(
        client.url(path), headers=await client.headers(), timeout=_NO_LIMIT
    ) as answer:
        answer.raise_for_status()
        rest = b""
        async for chunk in answer.content.iter_any():
            at = time.monotonic()
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield line, at


class Observer:
    """The stamps, and the present state, of all jobs of one namespace."""

    def __init__(self, client: KubeClient, namespace: str) -> None:
        self.stamps: dict[str, Stamps] = {}
        self.pods: dict[str, dict[str, str]] = {}
        """Phase by pod by job, of the pods that there are now."""
        self.jobs: dict[str, Status] = {}
        self.running_statuses = 0
        """Jobs whose status has been Running."""
        self._client, self._namespace = client, namespace
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Observer:
        pods = collection("v1", "pods", self._namespace)
        jobs = collection(names.API_VERSION, names.DISTRIBUTED_JOBS, self._namespace)
        versions = [await version_of(self._client, path) for path in (pods, jobs)]
        self._tasks = [
            asyncio.create_task(self._follow(pods, versions[0], self.note_pod)),
            asyncio.create_task(self._follow(jobs, versions[1], self.note_job)),
        ]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def requested(self, job: str) -> None:
        """A job is about to be created."""
        self.stamps[job] = Stamps(requested_at=time.monotonic())

    def note_pod(self, event: Event, at: float) -> None:
        """Take in one event of a pod."""
        pod, job = event.object.metadata.name, event.object.metadata.labels.job
        present = self.pods.setdefault(job, {})
        if event.type == "DELETED":
            present.pop(pod, None)
            return
        present[pod] = event.object.status.phase
        if (stamps := self.stamps.get(job)) is not None:
            stamps.pods.setdefault(pod, at)
            if event.object.status.phase == RUNNING:
                stamps.running.setdefault(pod, at)

    def note_job(self, event: Event, at: float) -> None:
        """Take in one event of a job."""
        job = event.object.metadata.name
        if event.type == "DELETED":
            self.jobs.pop(job, None)
            return
        self.jobs[job] = event.object.status
        stamps = self.stamps.get(job)
        if stamps and stamps.status_at is None and event.object.status.phase == RUNNING:
            stamps.status_at = at
            self.running_statuses += 1

    async def until(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        """Return once the condition holds; raises TimeoutError, or what ended a watch."""
        deadline = time.monotonic() + seconds
        while not condition():
            for task in self._tasks:
                if task.done():
                    task.result()
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {seconds:.0f} s: {what}")
            await asyncio.sleep(_POLL_SECONDS)

    async def _follow(self, path: str, version: str, note: Callable[[Event, float], None]) -> None:
        async for event, at in watch(self._client, path, version):
            note(event, at)
