"""The load: DistributedJobs of two workers, made by concurrent creators as fast as is taken."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any

from benchmarks.observe import Observer
from tools.localcluster.simulation import SIMULATED
from trainyard.api import names
from trainyard.cluster.client import KubeClient, collection
from trainyard.cluster.throttle import Throttle

WORKERS = 2
PODS = WORKERS + 1
"""With the coordinator's."""


def job_manifest(name: str, *, workers: int = WORKERS) -> dict[str, Any]:
    """A job of so many workers that may be scaled to four; its pods run on simulated nodes."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.DISTRIBUTED_JOB,
        "metadata": {"name": name},
        "spec": {
            "task": {"entrypoint": "trainyard_trainer.tasks.digits:Digits"},
            "image": "trainyard-trainer:0.1.0",
            "workers": {
                "min": 1,
                "max": 4,
                "replicas": workers,
                "gpus": 1,
                "template": {"tolerations": [{"key": SIMULATED, "operator": "Exists"}]},
            },
            "scaling": {"policy": "Manual"},
        },
    }


def job_names(count: int) -> list[str]:
    """The names of a burst's jobs."""
    return [f"job-{index:05d}" for index in range(count)]


async def concurrently(calls: Iterable[Coroutine[Any, Any, Any]], limit: int) -> None:
    """Await all calls, so many at a time."""
    waiting = iter(calls)

    async def work() -> None:
        for call in waiting:
            await call

    async with asyncio.TaskGroup() as group:
        for _ in range(limit):
            group.create_task(work())


class Load:
    """What users do: create, scale and delete jobs of one namespace."""

    def __init__(self, client: KubeClient, namespace: str) -> None:
        self._client = client
        self._path = collection(names.API_VERSION, names.DISTRIBUTED_JOBS, namespace)
        self._pods = collection("v1", "pods", namespace)

    async def create(
        self, observer: Observer, jobs: Iterable[str], creators: int, *, workers: int = WORKERS
    ) -> None:
        """Create jobs, so many at a time; returns when the API server has taken the last."""

        async def create(name: str) -> None:
            observer.requested(name)
            body = job_manifest(name, workers=workers)
            await self._client.request("POST", self._path, body=body)

        await concurrently((create(name) for name in jobs), creators)

    async def scale(self, name: str, replicas: int) -> None:
        """Write the scale subresource, as `kubectl scale` does."""
        await self._client.request(
            "PATCH",
            f"{self._path}/{name}/scale",
            body={"spec": {"replicas": replicas}},
            content_type="application/merge-patch+json",
        )

    async def delete(self, name: str) -> None:
        """Delete a job."""
        await self._client.delete(f"{self._path}/{name}")

    async def fail(self, pod: str) -> None:
        """Have a pod fail as its kubelet would report it."""
        ended = {"exitCode": 137, "reason": "Error", "finishedAt": "2026-01-01T00:00:00Z"}
        status = {
            "phase": "Failed",
            "containerStatuses": [
                {
                    "name": "trainer",
                    "image": "trainyard-trainer:0.1.0",
                    "imageID": "",
                    "ready": False,
                    "restartCount": 0,
                    "state": {"terminated": ended},
                }
            ],
        }
        await self._client.request(
            "PATCH",
            f"{self._pods}/{pod}/status",
            body={"status": status},
            content_type="application/strategic-merge-patch+json",
        )


def unthrottled(client: KubeClient) -> KubeClient:
    """The client without its throttle: the creators decide how many requests are under way."""
    client.throttle = Throttle(slots=2000, share=1000)
    return client
