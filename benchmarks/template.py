"""What the operator makes of one job, to be made again by the bare client, byte for byte.

The manifests come from the operator's own render functions, with certificates made once; the two
statuses are those that a running operator wrote for one job.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import msgspec

from benchmarks.load import WORKERS, Load
from benchmarks.observe import RUNNING, Observer
from trainyard.api import names
from trainyard.api.jobs import DistributedJob, parse_job
from trainyard.cluster.certificates import RENEW_AFTER, issue, make_authority
from trainyard.cluster.client import KubeClient, collection
from trainyard.render.network import Network
from trainyard.render.pods import coordinator_pod, worker_pod
from trainyard.render.secrets import authority_secret, leaf_secret
from trainyard_trainer.contract.env import Role

NAME = "recorded-template-job"
"""So long and odd that it stands for nothing else where it is replaced."""
NETWORK = Network(service="trainyard", cluster_domain="cluster.local")
_SECONDS = 60


class Request(msgspec.Struct, frozen=True):
    """One request; name, uid and namespace of the recorded job stand for any job's."""

    path: str
    body: str


class Template(msgspec.Struct, frozen=True):
    """All requests of one job."""

    namespace: str
    operator_namespace: str
    uid: str
    create: list[Request]
    begin: Request
    """The first status."""
    run: Request
    """The status that says Running."""

    def moved(self, namespace: str, operator_namespace: str) -> Template:
        """The same for another pair of namespaces."""
        text = msgspec.json.encode(self).decode()
        text = text.replace(self.operator_namespace, operator_namespace)
        return msgspec.json.decode(text.replace(self.namespace, namespace), type=Template)


async def record(client: KubeClient, namespace: str, operator_namespace: str) -> Template:
    """Have the operator that runs bring one job up, and note what that took."""
    statuses: list[dict[str, Any]] = []
    path = collection(names.API_VERSION, names.DISTRIBUTED_JOBS, namespace)
    async with Observer(client, namespace) as observer:
        follow = asyncio.create_task(_statuses(client, path, statuses))
        await Load(client, namespace).create(observer, [NAME], 1)
        await asyncio.wait_for(follow, _SECONDS)
    raw = await client.get(f"{path}/{NAME}")
    job = parse_job(raw)
    assert isinstance(job, DistributedJob)
    return Template(
        namespace=namespace,
        operator_namespace=operator_namespace,
        uid=job.uid,
        create=_creations(job, operator_namespace),
        begin=_status(path, job, statuses[0]),
        run=_status(path, job, statuses[-1]),
    )


async def _statuses(client: KubeClient, path: str, found: list[dict[str, Any]]) -> None:
    """Collect the job's statuses up to the one that says Running."""
    url = client.url(f"{path}?watch=1&fieldSelector=metadata.name={NAME}")
    async with client.session.get(url, headers=await client.headers()) as answer:
        async for line in answer.content:
            status = msgspec.json.decode(line)["object"].get("status")
            if status:
                found.append(status)
                if status.get("phase") == RUNNING:
                    return


def _creations(job: DistributedJob, operator_namespace: str) -> list[Request]:
    now = datetime.now(UTC)
    authority = make_authority(job.key, now)
    items = {"ca.crt": authority.certificate}
    certified = NETWORK.certified_hosts(job.key)
    for role, dns in ((Role.COORDINATOR, certified), (Role.WORKER, ())):
        leaf = issue(authority, job.key, role, now, dns=dns)
        items[f"{role}.crt"], items[f"{role}.key"] = leaf.certificate, leaf.key
    secret = authority_secret(
        job, operator_namespace, authority.certificate, authority.key, now + RENEW_AFTER
    )
    manifests = [
        ("secrets", secret),
        ("secrets", leaf_secret(job, items)),
        ("pods", coordinator_pod(job, 1, NETWORK)),
        *(("pods", worker_pod(job, index, 1, NETWORK)) for index in range(WORKERS)),
    ]
    return [
        Request(
            path=collection("v1", plural, manifest["metadata"]["namespace"]),
            body=msgspec.json.encode(manifest).decode(),
        )
        for plural, manifest in manifests
    ]


def _status(path: str, job: DistributedJob, status: dict[str, Any]) -> Request:
    body = {
        "apiVersion": names.API_VERSION,
        "kind": job.key.kind,
        "metadata": {"name": job.key.name, "namespace": job.key.namespace, "uid": job.uid},
        "status": status,
    }
    return Request(path=f"{path}/{NAME}/status", body=msgspec.json.encode(body).decode())
