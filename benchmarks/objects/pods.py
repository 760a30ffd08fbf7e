"""Pods without an operator: created in bulk, and timed until they run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.barepod import Manifest
from benchmarks.load import WORKERS, concurrently
from benchmarks.objects.jobs import Object
from benchmarks.observe import RUNNING, Event, version_of, watch
from trainyard.api.jobs import DistributedJob, parse_job
from trainyard.cluster.client import KubeClient, collection
from trainyard.render.network import Network
from trainyard.render.pods import coordinator_pod, worker_pod
from trainyard_trainer.contract.env import Role

_NETWORK = Network(service="trainyard", cluster_domain="cluster.local")
_RUNNING_SECONDS = 300


def render_pods(raw: Object, role: Role) -> list[Manifest]:
    """The pods of that role as the operator would make them for the job."""
    job = parse_job(raw)
    assert isinstance(job, DistributedJob)
    if role is Role.COORDINATOR:
        return [coordinator_pod(job, 1, _NETWORK)]
    return [worker_pod(job, index, 1, _NETWORK) for index in range(WORKERS)]


@dataclass(slots=True)
class PodTimes:
    """When each pod of a namespace was first seen to exist, to be bound and to run."""

    began: float = 0.0
    """Just before the first was created."""
    created: dict[str, float] = field(default_factory=dict)
    bound: dict[str, float] = field(default_factory=dict)
    running: dict[str, float] = field(default_factory=dict)

    def note(self, event: Event, at: float) -> None:
        """Take in one event of a pod."""
        pod = event.object
        self.created.setdefault(pod.metadata.name, at)
        if pod.spec.node_name:
            self.bound.setdefault(pod.metadata.name, at)
        if pod.status.phase == RUNNING:
            self.running.setdefault(pod.metadata.name, at)

    def seconds(self) -> dict[str, float]:
        """Until the last pod existed, and from then until the last was bound and ran."""
        created = max(self.created.values())
        return {
            "created s": round(created - self.began, 2),
            "bound s": round(max(self.bound.values()) - created, 2),
            "running s": round(max(self.running.values()) - created, 2),
        }


async def create_pods(
    client: KubeClient, namespace: str, pods: Sequence[Manifest], creators: int, times: PodTimes
) -> None:
    """Create the pods and wait until all run."""
    path = collection("v1", "pods", namespace)
    version = await version_of(client, path)
    async with asyncio.timeout(_RUNNING_SECONDS), asyncio.TaskGroup() as group:
        group.create_task(_follow(client, path, version, times, len(pods)))
        times.began = time.monotonic()
        await concurrently((client.create(path, pod) for pod in pods), creators)


async def _follow(client: KubeClient, path: str, version: str, times: PodTimes, count: int) -> None:
    """Watch until so many pods run."""
    async for event, at in watch(client, path, version):
        times.note(event, at)
        if len(times.running) == count:
            return
