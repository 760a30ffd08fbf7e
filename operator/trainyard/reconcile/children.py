"""A job's children: the Secrets that it has once, and its pods."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterator
from datetime import datetime, timedelta
from typing import Any

from trainyard.api import names
from trainyard.api.jobs import DistributedJob, FederatedJob, Job
from trainyard.api.pods import Pod, parse_pod
from trainyard.api.podset import subdomain_of
from trainyard.cluster.authorities import Authority
from trainyard.cluster.certificates import KeyPair, issue
from trainyard.cluster.client import ApiError, collection
from trainyard.lifecycle.diff import PodToCreate
from trainyard.logs import pod_fields
from trainyard.reconcile.dependencies import Dependencies
from trainyard.reconcile.state import ChildrenState
from trainyard.render.network import Network
from trainyard.render.pods import coordinator_pod, party_pod, worker_pod
from trainyard.render.secrets import leaf_name, leaf_secret
from trainyard_trainer.contract.env import Role

log = logging.getLogger(__name__)

CHILDREN_INTERVAL = timedelta(hours=1)
"""How often Secrets are ensured again: no watch tells when somebody changes them."""


async def ensure_children(
    deps: Dependencies, job: Job, state: ChildrenState, network: Network
) -> None:
    """Ensure the authority and the leaf Secret, unless they are still valid."""
    now = deps.clock()
    parties = job.party_names
    if _is_valid(state, parties, network, now):
        return
    is_first = state.valid_until is None
    created = await _create_all(deps, job, parties, network, now) if is_first else None
    authority = created or await deps.authorities.ensure(job, now, parties)
    is_due = now >= authority.renew_at or not parties <= authority.parties
    if created is None:
        # Until the status has a term, the leaves may be those of an earlier job of the same name.
        replaces = is_due or not job.status.term or not _has_names(deps, job, state, network)
        await _ensure_leaves(deps, job, authority.pair, network, replaces=replaces)
    if is_due:
        authority = await deps.authorities.renewed(job, now, parties)
    state.valid_until = min(authority.renew_at, now + CHILDREN_INTERVAL)
    state.certified, state.network = parties, network


async def _create_all(
    deps: Dependencies, job: Job, parties: frozenset[str], network: Network, now: datetime
) -> Authority | None:
    """Create the authority and leaves of a new job in one round trip.

    The leaves may be stored before their authority, as no pod is created before both exist.
    Returns None where anything existed already: it is left as it is until its owner is known.
    """
    if job.status.term or deps.authorities.is_cached(job.uid):
        return None
    proposed = deps.authorities.propose(job, now, parties)
    kept, are_leaves_new = await _all(
        deps.authorities.keep(job, proposed),
        _create(deps, "secrets", _leaf_manifest(deps, job, proposed.pair, network)),
    )
    is_new = kept.pair is proposed.pair and are_leaves_new
    return kept if is_new else None


async def _all(*requests: Coroutine[Any, Any, Any]) -> list[Any]:
    """The results of all requests; raises the first error only once all have finished."""
    results = await asyncio.gather(*requests, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


async def _ensure_leaves(
    deps: Dependencies, job: Job, authority: KeyPair, network: Network, *, replaces: bool
) -> None:
    """Ensure leaves of this authority; existing ones, which pods may hold, stay by default."""
    name = names.leaf_secret_name(job.key.name)
    path = f"{collection('v1', 'secrets', job.key.namespace)}/{name}"
    if replaces or not await deps.client.exists(path):
        await deps.client.apply(path, _leaf_manifest(deps, job, authority, network))


def _has_names(deps: Dependencies, job: Job, state: ChildrenState, network: Network) -> bool:
    """Whether the coordinator's certificate has the DNS names of this network.

    What an earlier process issued has the names by which the pods find each other. Without pods
    it may have others: of an earlier release, or of other options.
    """
    if state.network is not None:
        return state.network == network
    return subdomain_of(deps.cache.pods_of(job.key), job.uid) is not None


def _is_valid(
    state: ChildrenState, parties: frozenset[str], network: Network, now: datetime
) -> bool:
    """Whether this process ensured the children, and none of them is due or missing."""
    until = state.valid_until
    is_current = parties <= state.certified and state.network == network
    return until is not None and now < until and is_current


def _leaf_manifest(
    deps: Dependencies, job: Job, authority: KeyPair, network: Network
) -> dict[str, Any]:
    now = deps.clock()
    items = {"ca.crt": authority.certificate}
    for role, member, dns in _leaf_owners(job, network):
        leaf = issue(authority, job.key, role, now, dns=dns, member=member)
        name = leaf_name(role, member)
        items[f"{name}.crt"], items[f"{name}.key"] = leaf.certificate, leaf.key
    return leaf_secret(job, items)


def _leaf_owners(job: Job, network: Network) -> Iterator[tuple[Role, str, tuple[str, ...]]]:
    """Role, party and DNS names of each leaf."""
    yield Role.COORDINATOR, "", network.certified_hosts(job.key)
    match job:
        case DistributedJob():
            yield Role.WORKER, "", ()
        case FederatedJob():
            for party in job.spec.local_parties:
                yield Role.PARTY, party.name, ()


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


async def create_pod(deps: Dependencies, job: Job, pod: PodToCreate, network: Network) -> bool:
    """Create the pod, or adopt the one of that name that this job has; whether it was adopted."""
    manifest = _pod_manifest(job, pod, network)
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


def _pod_manifest(job: Job, pod: PodToCreate, network: Network) -> dict[str, Any]:
    if pod.role is Role.COORDINATOR:
        return coordinator_pod(job, pod.attempt, network)
    match job:
        case DistributedJob():
            return worker_pod(job, int(pod.member), pod.attempt, network)
        case FederatedJob():
            return party_pod(job, str(pod.member), pod.attempt, network)


async def delete_pod(deps: Dependencies, job: Job, pod: Pod) -> None:
    """Delete the pod by uid, with its own grace period; a finished one at once."""
    path = f"{collection('v1', 'pods', pod.namespace)}/{pod.name}"
    await deps.client.delete(path, uid=pod.uid)
    log.info("pod deleted", extra=pod_fields(job.key, pod))
