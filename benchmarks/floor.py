"""The floor: a bare client that makes what the operator makes, as fast as the API server takes it.

`python -m benchmarks.floor` is a process of its own, as the operator is: for each job that its
watch tells of it sends the five objects and the first status at once, and the second status when
the job's pods run. No policy, no mirror, no rendering, no retry; certificates are made beforehand.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from benchmarks.load import PODS
from benchmarks.observe import RUNNING, version_of, watch
from benchmarks.template import NAME, NETWORK, Request, Template
from trainyard.api import names
from trainyard.cluster.client import APPLY, JSON, ApiError, KubeClient, collection
from trainyard.render.network import namespace_service

READY = "ready"
"""Printed once the watches stand."""


class Floor:
    """One bare client."""

    def __init__(self, client: KubeClient, template: Template, in_flight: int) -> None:
        self._client, self._template = client, template
        self._places = asyncio.Semaphore(in_flight)
        self._headers: dict[str, str] = {}
        self._uids: dict[str, str] = {}
        self._running: Counter[str] = Counter()
        self._seen: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve jobs until cancelled, or until a request is refused."""
        self._headers = await self._client.headers()
        namespace = self._template.namespace
        await self._create_service(namespace)
        jobs = collection(names.API_VERSION, names.DISTRIBUTED_JOBS, namespace)
        pods = collection("v1", "pods", namespace)
        versions = [await version_of(self._client, path) for path in (jobs, pods)]
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch_jobs(group, jobs, versions[0]))
            group.create_task(self._watch_pods(group, pods, versions[1]))
            print(READY, flush=True)

    async def _create_service(self, namespace: str) -> None:
        """Create what the operator makes once a namespace."""
        service = namespace_service(namespace, NETWORK.service)
        try:
            await self._client.create(collection("v1", "services", namespace), service)
        except ApiError as error:
            if not error.is_conflict:
                raise

    async def _watch_jobs(self, group: asyncio.TaskGroup, path: str, version: str) -> None:
        async for event, _ in watch(self._client, path, version):
            if event.type == "ADDED":
                meta = event.object.metadata
                self._uids[meta.name] = meta.uid
                for request in self._template.create:
                    group.create_task(self._send("POST", request, JSON, meta.name))
                group.create_task(self._send("PATCH", self._template.begin, APPLY, meta.name))

    async def _watch_pods(self, group: asyncio.TaskGroup, path: str, version: str) -> None:
        async for event, _ in watch(self._client, path, version):
            meta = event.object.metadata
            if event.object.status.phase != RUNNING or meta.uid in self._seen:
                continue
            self._seen.add(meta.uid)
            job = meta.labels.job
            self._running[job] += 1
            if self._running[job] == PODS:
                group.create_task(self._send("PATCH", self._template.run, APPLY, job))

    async def _send(self, method: str, request: Request, content_type: str, job: str) -> None:
        body = request.body.replace(self._template.uid, self._uids[job]).replace(NAME, job)
        params = {"fieldManager": names.FIELD_MANAGER}
        if method == "PATCH":
            params["force"] = "true"
        async with (
            self._places,
            self._client.session.request(
                method,
                self._client.url(request.path.replace(NAME, job)),
                params=params,
                data=body.encode(),
                headers={"Content-Type": content_type, **self._headers},
            ) as answer,
        ):
            text = await answer.read()
            if answer.status >= 400:
                raise RuntimeError(f"{method} {request.path}: {answer.status} {text[:500]!r}")


def main(
    kubeconfig: Annotated[Path, typer.Option()],
    template: Annotated[Path, typer.Option(help="A recorded template.")],
    in_flight: Annotated[int, typer.Option(help="Requests under way at once.")],
) -> None:
    """Serve the jobs of the template's namespace until killed."""
    decoded = msgspec.json.decode(template.read_bytes(), type=Template)
    asyncio.run(_run(kubeconfig, decoded, in_flight))


async def _run(kubeconfig: Path, template: Template, in_flight: int) -> None:
    async with await KubeClient.connect(kubeconfig) as client:
        await Floor(client, template, in_flight).run()


if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(main)
    app()
