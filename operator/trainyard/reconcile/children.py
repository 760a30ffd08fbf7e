"""A job's children: the Secrets and the Service that it has once, and its pods."""

from __future__ import annotations

import asyncio
import logging
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
from trainyard.logs import pod_fields
from trainyard.reconcile.dependencies import Dependencies
from trainyard.reconcile.state import ChildrenState
from trainyard.render.network import coordinator_service
from trainyard.render.pods import coordinator_host, coordinator_pod, party_pod, worker_pod
from trainyard.render.secrets import leaf_name, leaf_secret
from trainyard_trainer.contract.env import Role

log = logging.getLogger(__name__)

CHILDREN_INTERVAL = timedelta(hours=1)
"""How often Secrets and Service are ensured again: no watch tells when somebody changes them."""


async def ensure_children(deps: Dependencies, job: Job, state: ChildrenState) -> None:
    """Ensure the authority, the leaf Secret and the Service, unless they are still valid."""
    now = deps.clock()
    parties = job.party_names
    if _is_valid(state, parties, now):
        return
    is_first = state.valid_until is None
    created = await _create_all(deps, job, parties, now) if is_first else None
    authority = created or await deps.authorities.ensure(job, now, parties)
    is_due = now >= authority.renew_at or not parties <= authority.parties
    if created is None:
        # Until the status has a term, the leaves may be those of an earlier job of the same name.
        replaces = is_due or not job.status.term
        await _all(
            _apply_service(deps, job),
            _ensure_leaves(deps, job, authority.pair, replaces=replaces),
        )
    if is_due:
        authority = await deps.authorities.renewed(job, now, parties)
    state.valid_until = min(authority.renew_at, now + CHILDREN_INTERVAL)
    state.certified = parties


async def _create_all(
    deps: Dependencies, job: Job, parties: frozenset[str], now: datetime
) -> Authority | None:
    """Create the authority, leaves and Service of a new job in one round trip.

    The leaves may be stored before their authority, as no pod is created before both exist.
    Returns None where anything existed already: it is left as it is until its owner is known.
    """
    if job.status.term or deps.authorities.is_cached(job.uid):
        return None
    proposed = deps.authorities.propose(job, now, parties)
    kept, is_service_new, are_leaves_new = await _all(
        deps.authorities.keep(job, proposed),
        _create(deps, "services", coordinator_service(job)),
        _create(deps, "secrets", _leaf_manifest(deps, job, proposed.pair)),
    )
    is_new = kept.pair is proposed.pair and is_service_new and are_leaves_new
    return kept if is_new else None


async def _all(*requests: Coroutine[Any, Any, Any]) -> list[Any]:
    """The results of all requests; raises the first error only once all have finished."""
    results = await asyncio.gather(*requests, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


async def _apply_service(deps: Dependencies, job: Job) -> None:
    service = coordinator_service(job)
    path = collection("v1", "services", job.key.namespace)
    await deps.client.apply(f"{path}/{service['metadata']['name']}", service)


async def _ensure_leaves(
    deps: Dependencies, job: Job, authority: KeyPair, *, replaces: bool
) -> None:
    """Ensure leaves of this authority; existing ones, which pods may hold, stay by default."""
    name = names.leaf_secret_name(job.key.name)
    path = f"{collection('v1', 'secrets', job.key.namespace)}/{name}"
    if replaces or not await deps.client.exists(path):
        await deps.client.apply(path, _leaf_manifest(deps, job, authority))


def _is_valid(state: ChildrenState, parties: frozenset[str], now: datetime) -> bool:
    """Whether this process ensured the children, and none of them is due or missing."""
    until = state.valid_until
    return until is not None and now < until and parties <= state.certified


def _leaf_manifest(deps: Dependencies, job: Job, authority: KeyPair) -> dict[str, Any]:
    now = deps.clock()
    host = coordinator_host(job, deps.options.cluster_domain)
    items = {"ca.crt": authority.certificate}
    for role, member, dns in _leaf_owners(job, host):
        leaf = issue(authority, job.key, role, now, dns=dns, member=member)
        name = leaf_name(role, member)
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


async def _create(deps: Dependencies, plural: str, manifest: dict[str, Any]) -> bool:
    """Create the object; False where one of that name exists, which is left as it is."""
    path = collection("v1", plural, manifest["metadata"]["namespace"])
    try:
        await deps.client.create(path, manifest)
    except ApiError as error:
        if not error.is_conflict:
            raise
        return False
    return True


async def create_pod(deps: Dependencies, job: Job, pod: PodToCreate) -> bool:
    """Create the pod, or adopt the one of that name that this job has; whether it was adopted."""
    manifest = _pod_manifest(job, pod, deps.options.cluster_domain)
    path = collection("v1", "pods", job.key.namespace)
    try:
        created = parse_pod(await deps.client.create(path, manifest))
    except ApiError as error:
        if not error.is_conflict:
            raise
        await _adopt_pod(deps, job, f"{path}/{manifest['metadata']['name']}", error)
        return True
    deps.cache.put_pod(created)
    log.info("pod created", extra=pod_fields(job.key, created))
    return False


async def _adopt_pod(deps: Dependencies, job: Job, path: str, conflict: ApiError) -> None:
    """Read the pod that exists already; raises ApiError if it is not of this job."""
    pod = parse_pod(await deps.client.get(path))
    deps.cache.put_pod(pod)  # whosever it is: its attempt is taken
    if pod.owner_uid != job.uid:
        message = f"{conflict.message}, and is not of this job: delete it, or rename the job"
        raise ApiError(conflict.status, conflict.reason, message) from conflict
    log.info("pod adopted", extra=pod_fields(job.key, pod))


def _pod_manifest(job: Job, pod: PodToCreate, domain: str) -> dict[str, Any]:
    if pod.role is Role.COORDINATOR:
        return coordinator_pod(job, pod.attempt)
    match job:
        case DistributedJob():
            return worker_pod(job, int(pod.member), pod.attempt, domain)
        case FederatedJob():
            return party_pod(job, str(pod.member), pod.attempt, domain)


async def delete_pod(deps: Dependencies, job: Job, pod: Pod) -> None:
    """Delete the pod by uid, with its own grace period; a finished one at once."""
    path = f"{collection('v1', 'pods', pod.namespace)}/{pod.name}"
    await deps.client.delete(path, uid=pod.uid)
    log.info("pod deleted", extra=pod_fields(job.key, pod))
