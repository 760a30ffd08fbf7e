"""The children that every running job has once: its Secrets, its Service; and its pods."""

from __future__ import annotations

import asyncio
from typing import Any

from trainyard.api import names
from trainyard.api.jobs import DistributedJob
from trainyard.api.pods import Pod, parse_pod
from trainyard.cluster.certificates import KeyPair, issue
from trainyard.cluster.client import ApiError, collection
from trainyard.planning import Slot
from trainyard.reconcile.services import Services
from trainyard.reconcile.state import JobState
from trainyard.render.network import coordinator_service
from trainyard.render.pods import coordinator_host, coordinator_pod, worker_pod
from trainyard.render.secrets import leaf_secret
from trainyard_trainer.contract import Role


async def ensure_children(services: Services, job: DistributedJob, state: JobState) -> None:
    """See to the authority, the leaves and the Service; again only when leaves need renewal."""
    now = services.clock()
    if state.children_until is not None and now < state.children_until:
        return
    authority = await services.authorities.ensure(job, now)
    is_due = now >= authority.renew_at
    # Leaves that pods of this job may hold are replaced only when they are due; those of an
    # earlier job of the same name, or of an authority that was lost, always are.
    is_ours_to_replace = is_due or authority.is_new or not job.status.term
    leaves = _leaf_manifest(services, job, authority.pair)
    await asyncio.gather(
        _create_or_apply(services, "services", coordinator_service(job)),
        _create_or_apply(services, "secrets", leaves, applies=is_ours_to_replace),
    )
    if is_due:
        authority = await services.authorities.renewed(job, now)
    state.children_until = authority.renew_at


def _leaf_manifest(services: Services, job: DistributedJob, authority: KeyPair) -> dict[str, Any]:
    now = services.clock()
    host = coordinator_host(job, services.options.cluster_domain)
    items = {"ca.crt": authority.certificate}
    for role, dns in ((Role.COORDINATOR, host), (Role.WORKER, "")):
        leaf = issue(authority, job.key, role, now, dns)
        items[f"{role}.crt"], items[f"{role}.key"] = leaf.certificate, leaf.key
    return leaf_secret(job, items)


async def _create_or_apply(
    services: Services, plural: str, manifest: dict[str, Any], *, applies: bool = True
) -> None:
    """Create; what exists already (left by a namesake, or changed by hand) is set right."""
    meta = manifest["metadata"]
    path = collection("v1", plural, meta["namespace"])
    try:
        await services.client.create(path, manifest)
    except ApiError as error:
        if not error.is_conflict:
            raise
        if applies:
            await services.client.apply(f"{path}/{meta['name']}", manifest)


async def create_pod(services: Services, job: DistributedJob, slot: Slot) -> None:
    """Create the pod of a slot; one of that name that is this job's already is as good."""
    if slot.role is Role.COORDINATOR:
        manifest = coordinator_pod(job, slot.attempt)
    else:
        domain = services.options.cluster_domain
        manifest = worker_pod(job, slot.index, slot.attempt, domain)
    path = collection("v1", "pods", job.key.namespace)
    try:
        created = await services.client.create(path, manifest)
    except ApiError as error:
        if not error.is_conflict:
            raise
        created = await services.client.get(f"{path}/{manifest['metadata']['name']}")
        if parse_pod(created).owner_uid != job.uid:
            services.mirror.put_pod(parse_pod(created))  # a namesake's: its attempt is taken
            told = f"{error.message}, and is not of this job: delete it, or rename the job"
            raise ApiError(error.status, error.reason, told) from error
    services.mirror.put_pod(parse_pod(created))


async def delete_pod(services: Services, pod: Pod) -> None:
    """Delete the pod by uid, with its own grace period; a finished one at once."""
    path = f"{collection('v1', 'pods', pod.namespace)}/{pod.name}"
    await services.client.delete(path, uid=pod.uid)


async def delete_job(services: Services, job: DistributedJob) -> None:
    """Delete the job itself, whose children Kubernetes then collects."""
    path = collection(names.API_VERSION, names.DISTRIBUTED_JOBS, job.key.namespace)
    # Of the version that was looked at: one whose time to live was changed meanwhile stays.
    version = str(job.resource_version)
    await services.client.delete(f"{path}/{job.key.name}", uid=job.uid, version=version)
