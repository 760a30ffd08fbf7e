"""The children that every running job has once: its Secrets, its Service; and its pods."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from datetime import datetime, timedelta
from typing import Any

from trainyard.api import names
from trainyard.api.jobs import DistributedJob, FederatedJob, Job
from trainyard.api.pods import Pod, parse_pod
from trainyard.cluster.authorities import Authority
from trainyard.cluster.certificates import KeyPair, issue
from trainyard.cluster.client import ApiError, collection
from trainyard.lifecycle.diff import PodToCreate
from trainyard.reconcile.dependencies import Dependencies
from trainyard.reconcile.state import JobState
from trainyard.render.network import coordinator_service
from trainyard.render.pods import coordinator_host, coordinator_pod, party_pod, worker_pod
from trainyard.render.secrets import leaf_of, leaf_secret
from trainyard_trainer.contract.env import Role

CHILDREN_AGAIN = timedelta(hours=1)
"""What somebody deleted, or changed of the Service, is set right after so long: nobody watches."""


async def ensure_children(services: Dependencies, job: Job, state: JobState) -> None:
    """See to the authority, the leaves and the Service; again when something of them is due."""
    now = services.clock()
    parties = _parties_of(job)
    if _is_settled(state, parties, now):
        return
    is_first = state.children_until is None
    begun = await _begun(services, job, parties, now) if is_first else None
    authority = begun or await services.authorities.ensure(job, now, parties)
    is_due = now >= authority.renew_at or not parties <= authority.parties
    if begun is None:
        # Before its first coordinator's term is told, what is there may be a namesake's.
        replaces = is_due or not job.status.term
        await _all(
            _apply_service(services, job),
            _see_to_leaves(services, job, authority.pair, replaces=replaces),
        )
    if is_due:
        authority = await services.authorities.renewed(job, now, parties)
    state.children_until = min(authority.renew_at, now + CHILDREN_AGAIN)
    state.certified = parties


async def _begun(
    services: Dependencies, job: Job, parties: frozenset[str], now: datetime
) -> Authority | None:
    """A new job's authority with all that it signed, in one round trip; None if that did not do.

    What is signed may be stored before the authority is, as no pod is made before both are there;
    what is there already is left until it is known whose it is.
    """
    if job.status.term or services.authorities.is_known(job.uid):
        return None
    proposed = services.authorities.propose(job, now, parties)
    kept, is_served, is_signed = await _all(
        services.authorities.keep(job, proposed),
        _create(services, "services", coordinator_service(job)),
        _create(services, "secrets", _leaf_manifest(services, job, proposed.pair)),
    )
    return kept if kept.pair is proposed.pair and is_served and is_signed else None


async def _all(*works: Coroutine[Any, Any, Any]) -> list[Any]:
    """What all return; the first failure, but only after all have ended: none may come late."""
    results = await asyncio.gather(*works, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


async def _apply_service(services: Dependencies, job: Job) -> None:
    service = coordinator_service(job)
    path = collection("v1", "services", job.key.namespace)
    await services.client.apply(f"{path}/{service['metadata']['name']}", service)


async def _see_to_leaves(
    services: Dependencies, job: Job, authority: KeyPair, *, replaces: bool
) -> None:
    """Have leaves of this authority; those that pods may hold stay, unless they are replaced."""
    name = names.leaf_secret_name(job.key.name)
    path = f"{collection('v1', 'secrets', job.key.namespace)}/{name}"
    if replaces or not await services.client.is_there(path):
        await services.client.apply(path, _leaf_manifest(services, job, authority))


def _is_settled(state: JobState, parties: frozenset[str], now: datetime) -> bool:
    """Whether this process has seen to the children, and nothing of them is due or missing."""
    until = state.children_until
    return until is not None and now < until and parties <= state.certified


def _parties_of(job: Job) -> frozenset[str]:
    """Whom the leaf Secret needs certificates for, besides coordinator and workers."""
    if isinstance(job, FederatedJob):
        return frozenset(party.name for party in job.spec.local_parties)
    return frozenset()


def _leaf_manifest(services: Dependencies, job: Job, authority: KeyPair) -> dict[str, Any]:
    now = services.clock()
    host = coordinator_host(job, services.options.cluster_domain)
    items = {"ca.crt": authority.certificate}
    for role, member, dns in _leaf_owners(job, host):
        leaf = issue(authority, job.key, role, now, dns=dns, member=member)
        name = leaf_of(role, member)
        items[f"{name}.crt"], items[f"{name}.key"] = leaf.certificate, leaf.key
    return leaf_secret(job, items)


def _leaf_owners(job: Job, host: str) -> Iterator[tuple[Role, str, str]]:
    """Role, party and DNS name of each leaf."""
    yield Role.COORDINATOR, "", host
    match job:
        case DistributedJob():
            yield Role.WORKER, "", ""
        case FederatedJob():
            for party in job.spec.local_parties:
                yield Role.PARTY, party.name, ""


async def _create(services: Dependencies, plural: str, manifest: dict[str, Any]) -> bool:
    """Create; False when there is one of that name already, which is left as it is."""
    path = collection("v1", plural, manifest["metadata"]["namespace"])
    try:
        await services.client.create(path, manifest)
    except ApiError as error:
        if not error.is_conflict:
            raise
        return False
    return True


async def create_pod(services: Dependencies, job: Job, slot: PodToCreate) -> bool:
    """Create the pod of a slot; whether this job had one of that name, which is as good."""
    manifest = _pod_manifest(job, slot, services.options.cluster_domain)
    path = collection("v1", "pods", job.key.namespace)
    was_there = False
    try:
        pod = parse_pod(await services.client.create(path, manifest))
    except ApiError as error:
        if not error.is_conflict:
            raise
        was_there = True
        pod = parse_pod(await services.client.get(f"{path}/{manifest['metadata']['name']}"))
        if pod.owner_uid != job.uid:
            services.cache.put_pod(pod)  # a namesake's: its attempt is taken
            told = f"{error.message}, and is not of this job: delete it, or rename the job"
            raise ApiError(error.status, error.reason, told) from error
    services.cache.put_pod(pod)
    return was_there


def _pod_manifest(job: Job, slot: PodToCreate, domain: str) -> dict[str, Any]:
    if slot.role is Role.COORDINATOR:
        return coordinator_pod(job, slot.attempt)
    match job:
        case DistributedJob():
            return worker_pod(job, int(slot.member), slot.attempt, domain)
        case FederatedJob():
            return party_pod(job, str(slot.member), slot.attempt, domain)


async def delete_pod(services: Dependencies, pod: Pod) -> None:
    """Delete the pod by uid, with its own grace period; a finished one at once."""
    path = f"{collection('v1', 'pods', pod.namespace)}/{pod.name}"
    await services.client.delete(path, uid=pod.uid)


def job_path(job: Job) -> str:
    """Where the job is."""
    plural = names.PLURALS[job.key.kind]
    return f"{collection(names.API_VERSION, plural, job.key.namespace)}/{job.key.name}"


async def delete_job(services: Dependencies, job: Job) -> None:
    """Delete the job itself, whose children Kubernetes then collects."""
    # Of the version that was looked at: one whose time to live was changed meanwhile stays.
    version = str(job.resource_version)
    await services.client.delete(job_path(job), uid=job.uid, version=version)
