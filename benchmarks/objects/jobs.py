"""Jobs without an operator: created in bulk, and their statuses written one way or another."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from benchmarks.load import concurrently, job_manifest
from trainyard.api import names
from trainyard.cluster.client import JSON, MERGE_PATCH, KubeClient, collection

Object = dict[str, Any]
Write = Callable[[KubeClient, str, Object, Object], Awaitable[Object]]
"""Writes a status to the `/status` at a path, given the job as it was last seen."""

_MANAGER = {"fieldManager": names.FIELD_MANAGER}


class Jobs:
    """The jobs of one namespace, of the CRD in one API group."""

    def __init__(
        self, client: KubeClient, namespace: str, creators: int, group: str = names.GROUP
    ) -> None:
        self.namespace = namespace
        self._client, self._creators = client, creators
        self._api_version = f"{group}/{names.VERSION}"
        self._path = collection(self._api_version, names.DISTRIBUTED_JOBS, namespace)
        self.objects: dict[str, Object] = {}
        """Each job as the API server last returned it, by name."""

    async def create(self, jobs: Iterable[str]) -> None:
        """Create jobs of two workers."""
        await concurrently((self._create(name) for name in jobs), self._creators)

    async def write(self, write: Write, status: Object) -> None:
        """Write the same status to all jobs."""
        await concurrently(
            (self._write(write, name, status) for name in self.objects), self._creators
        )

    async def _create(self, name: str) -> None:
        body = {**job_manifest(name), "apiVersion": self._api_version}
        self.objects[name] = await self._client.create(self._path, body)

    async def _write(self, write: Write, name: str, status: Object) -> None:
        path = f"{self._path}/{name}/status"
        self.objects[name] = await write(self._client, path, self.objects[name], status)


async def server_side_apply(client: KubeClient, path: str, job: Object, status: Object) -> Object:
    """Apply the status; the uid is the precondition."""
    body = {**_identity(job, "name", "namespace", "uid"), "status": status}
    query = {**_MANAGER, "force": "true"}
    apply = "application/apply-patch+yaml"
    return await client.request("PATCH", path, query=query, body=body, content_type=apply)


async def merge_patch(client: KubeClient, path: str, job: Object, status: Object) -> Object:
    """Patch the status; uid and resource version are the precondition."""
    version = {key: job["metadata"][key] for key in ("uid", "resourceVersion")}
    body = {"metadata": version, "status": status}
    return await client.request("PATCH", path, query=_MANAGER, body=body, content_type=MERGE_PATCH)


async def update(client: KubeClient, path: str, job: Object, status: Object) -> Object:
    """Replace the status; uid and resource version are the precondition.

    The API server takes the rest of the object, which may be left out, from what is stored.
    """
    identity = _identity(job, "name", "namespace", "uid", "resourceVersion")
    body = {**identity, "status": status}
    return await client.request("PUT", path, query=_MANAGER, body=body, content_type=JSON)


WRITES: dict[str, Write] = {
    "server-side apply": server_side_apply,
    "merge patch": merge_patch,
    "update": update,
}


def _identity(job: Object, *fields: str) -> Object:
    metadata = {field: job["metadata"][field] for field in fields}
    return {"apiVersion": job["apiVersion"], "kind": job["kind"], "metadata": metadata}


def check_field_manager(job: Object) -> None:
    """Raise unless the status belongs to the operator's field manager."""
    managers = {
        entry["manager"]
        for entry in job["metadata"]["managedFields"]
        if entry.get("subresource") == "status"
    }
    if managers != {names.FIELD_MANAGER}:
        raise RuntimeError(f"the status is managed by {managers or 'nobody'}")
