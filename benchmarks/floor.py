"""The floor: a bare client that makes a job's objects as fast as the API server takes them.

`python -m benchmarks.floor` is a process of its own, as the operator is: for each job that its
watch reports it sends the template's objects and first status at once, and the last status when the
job's pods run. No policy, no cache, no rendering, no retry; certificates are made beforehand.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from benchmarks.observe import RUNNING, KubeObject, version_of, watch
from benchmarks.recorder import Request
from benchmarks.template import NAME, VERSION, Template
from trainyard.api import names
from trainyard.cluster.client import KubeClient, collection

READY = "ready"
"""Printed once the watches stand."""


class Floor:
    """One bare client."""

    def __init__(self, client: KubeClient, template: Template, in_flight: int) -> None:
        self._client, self._template = client, template
        self._slots = asyncio.Semaphore(in_flight)
        self._headers: dict[str, str] = {}
        self._uids: dict[str, str] = {}
        self._versions: dict[str, str] = {}
        """The resource version of each job, after the last status that was written."""
        self._writing: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._running: Counter[str] = Counter()
        self._seen: set[str] = set()

    async def run(self) -> None:
        """Serve jobs until cancelled, or until a request is refused."""
        self._headers = await self._client.headers()
        namespace = self._template.namespace
        jobs = collection(names.API_VERSION, names.DISTRIBUTED_JOBS, namespace)
        pods = collection("v1", "pods", namespace)
        versions = [await version_of(self._client, path) for path in (jobs, pods)]
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch_jobs(group, jobs, versions[0]))
            group.create_task(self._watch_pods(group, pods, versions[1]))
            print(READY, flush=True)

    async def _watch_jobs(self, group: asyncio.TaskGroup, path: str, version: str) -> None:
        async for event, _ in watch(self._client, path, version):
            if event.type == "ADDED":
                meta = event.object.metadata
                self._uids[meta.name] = meta.uid
                self._versions[meta.name] = meta.resource_version
                for request in self._template.create:
                    group.create_task(self._send(request, meta.name))
                for request in self._template.statuses[:-1]:
                    group.create_task(self._write_status(request, meta.name))

    async def _watch_pods(self, group: asyncio.TaskGroup, path: str, version: str) -> None:
        pods = self._template.pods
        async for event, _ in watch(self._client, path, version):
            meta = event.object.metadata
            if event.object.status.phase != RUNNING or meta.uid in self._seen:
                continue
            self._seen.add(meta.uid)
            job = meta.labels.job
            self._running[job] += 1
            if self._running[job] == pods:
                group.create_task(self._write_status(self._template.statuses[-1], job))

    async def _write_status(self, request: Request, job: str) -> None:
        async with self._writing[job]:  # The next one needs the version that this one makes.
            answer = msgspec.json.decode(await self._send(request, job), type=KubeObject)
            self._versions[job] = answer.metadata.resource_version

    async def _send(self, request: Request, job: str) -> bytes:
        body = request.body.replace(self._template.uid, self._uids[job]).replace(NAME, job)
        async with (
            self._slots,
            self._client.session.request(
                request.method,
                self._client.url(request.path.replace(NAME, job)),
                params=request.query,
                data=body.replace(VERSION, self._versions[job]).encode(),
                headers={"Content-Type": request.content_type, **self._headers},
            ) as answer,
        ):
            content = await answer.read()
            if answer.status >= 400:
                raise RuntimeError(
                    f"{request.method} {request.path}: {answer.status} {content[:500]!r}"
                )
            return content


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
