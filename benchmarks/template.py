"""The requests that bring one job up, to be sent again by the bare client for any other.

They are those of a running operator, byte for byte: objects, certificates and statuses as it made
them for one job. The one exception is what depends on the job: its name, namespace, uid and
resource version.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.barepod import bare_pod
from benchmarks.load import Load
from benchmarks.observe import RUNNING, Observer
from benchmarks.plane import Environment
from benchmarks.recorder import Request, read_requests
from trainyard.api import names
from trainyard.cluster.client import KubeClient, collection
from trainyard_trainer.contract.env import Role

NAME = "recorded-template-job"
"""So long and odd that it stands for nothing else where it is replaced."""
VERSION = "recorded-resource-version"
"""Stands for the job's resource version where a request has it as a precondition."""
_SECONDS = 60
_POLL_SECONDS = 0.1


class Template(msgspec.Struct, frozen=True, kw_only=True):
    """All requests of one job."""

    namespace: str
    operator_namespace: str
    uid: str
    create: list[Request]
    """The job's objects, sent at once."""
    statuses: list[Request]
    """The statuses of the job: the last when all its pods run, one before it at once."""

    @property
    def pods(self) -> int:
        """How many of the objects are pods."""
        return sum(_is_pod(request) for request in self.create)

    def moved(self, environment: Environment) -> Template:
        """The same for another pair of namespaces."""
        text = msgspec.json.encode(self).decode()
        text = text.replace(self.operator_namespace, environment.operator_namespace)
        text = text.replace(self.namespace, environment.namespace)
        return msgspec.json.decode(text, type=Template)

    def bare(self) -> Template:
        """What another controller would make: a bare pod for each worker, and one status."""
        manifests = [(r, msgspec.json.decode(r.body)) for r in self.create if _is_pod(r)]
        create = [
            msgspec.structs.replace(request, body=_encode(bare_pod(manifest)))
            for request, manifest in manifests
            if manifest["metadata"]["labels"][names.LABEL_ROLE] == Role.WORKER
        ]
        return msgspec.structs.replace(self, create=create, statuses=self.statuses[-1:])


async def record(client: KubeClient, environment: Environment, recording: Path) -> Template:
    """Have the operator, whose requests are recorded in that file, bring one job up."""
    async with Observer(client, environment.namespace) as observer:
        await Load(client, environment.namespace).create(observer, [NAME], 1)
    async with asyncio.timeout(_SECONDS):
        while True:
            requests = read_requests(recording)
            if any(_phase(request) == RUNNING for request in requests):
                break
            await asyncio.sleep(_POLL_SECONDS)
    path = collection(names.API_VERSION, names.DISTRIBUTED_JOBS, environment.namespace)
    uid = (await client.get(f"{path}/{NAME}"))["metadata"]["uid"]
    return template_of(requests, environment.namespace, environment.operator_namespace, uid)


def template_of(
    requests: Sequence[Request], namespace: str, operator_namespace: str, uid: str
) -> Template:
    """What of the recorded requests was for the one job, up to the status that says Running.

    Events are left out, which are not needed to bring a job up, and so are changes of the job
    other than its status, such as a finalizer that only the operator would remove.
    """
    of_job = [r for r in requests if NAME in r.path or NAME in r.body]
    until = next(i for i, r in enumerate(of_job) if _phase(r) == RUNNING)
    of_job = of_job[: until + 1]
    statuses = [_with_version(r) for r in of_job if _is_status(r)]
    create = [r for r in of_job if not (_is_of(r, names.DISTRIBUTED_JOBS) or _is_of(r, "events"))]
    return Template(
        namespace=namespace,
        operator_namespace=operator_namespace,
        uid=uid,
        create=create,
        statuses=[*statuses[:1], *statuses[1:][-1:]],
    )


def _phase(request: Request) -> str:
    if not _is_status(request):
        return ""
    phase: str = msgspec.json.decode(request.body).get("status", {}).get("phase", "")
    return phase


def _is_status(request: Request) -> bool:
    return request.path.endswith(f"/{names.DISTRIBUTED_JOBS}/{NAME}/status")


def _is_of(request: Request, plural: str) -> bool:
    return plural in request.path.split("/")


def _is_pod(request: Request) -> bool:
    return _is_of(request, "pods")


def _with_version(request: Request) -> Request:
    """The request with the placeholder in place of a resource version."""
    body = msgspec.json.decode(request.body)
    if "resourceVersion" not in body.get("metadata", {}):
        return request
    body["metadata"]["resourceVersion"] = VERSION
    return msgspec.structs.replace(request, body=_encode(body))


def _encode(body: dict[str, Any]) -> str:
    return msgspec.json.encode(body).decode()
