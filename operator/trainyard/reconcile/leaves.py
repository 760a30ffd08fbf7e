"""A job's leaf Secret: created with the job, and written again as its certificates require.

Its content is never read. What it holds is recorded in an annotation (`cluster.issuance`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from trainyard.api import names
from trainyard.api.jobs import DistributedJob, FederatedJob, Job
from trainyard.api.names import Key
from trainyard.cluster.certificates import issue
from trainyard.cluster.client import collection
from trainyard.cluster.errors import ApiError
from trainyard.cluster.issuance import (
    Issuance,
    annotate,
    digest,
    next_issuance,
    parse_issuance,
)
from trainyard.reconcile.dependencies import Dependencies
from trainyard.render.network import Network
from trainyard.render.secrets import leaf_name, leaf_secret
from trainyard_trainer.contract.env import Role

MEND = ": delete it, or rename the job"


async def create_leaves(deps: Dependencies, job: Job, network: Network, now: datetime) -> Issuance:
    """Create the Secret of a new job; an existing one is set right."""
    try:
        return await _create(deps, job, network, now)
    except ApiError as error:
        # An exhausted quota refuses the creation of an existing object, too.
        may_exist = error.already_exists or error.is_forbidden
        if not may_exist or (meta := await deps.client.metadata(_path(job))) is None:
            raise
    return await _update(deps, job, meta, network, now)


async def ensure_leaves(deps: Dependencies, job: Job, network: Network, now: datetime) -> Issuance:
    """Ensure the Secret, written again only if its certificates are due or not the right ones."""
    meta = await deps.client.metadata(_path(job))
    if meta is None:
        return await _create(deps, job, network, now)
    return await _update(deps, job, meta, network, now)


def names_of(job: Job, network: Network) -> str:
    """A digest of what the job's leaves are named after."""
    return digest(network.certified_hosts(job.key), job.party_names)


async def _create(deps: Dependencies, job: Job, network: Network, now: datetime) -> Issuance:
    issuance = await _next(deps, job, None, network, now)
    secret = await _manifest(deps, job, issuance, network, now)
    await deps.client.create(collection("v1", "secrets", job.key.namespace), secret)
    return issuance


async def _update(
    deps: Dependencies, job: Job, meta: Mapping[str, Any], network: Network, now: datetime
) -> Issuance:
    """Write the Secret again where needed; raises ApiError if it is somebody else's or leaving."""
    _check_owner(deps, job, meta)
    if "deletionTimestamp" in meta:
        raise _refusal(job, "is being deleted; it is created again afterwards")
    is_of_this_job = _controller(meta).get("uid") == job.uid
    found = parse_issuance(meta) if is_of_this_job else None
    issuance = await _next(deps, job, found, network, now)
    if issuance is not found:
        fields = _changed_fields(await _manifest(deps, job, issuance, network, now), meta)
        await deps.client.replace_fields(_path(job), meta.get("resourceVersion", ""), fields)
    return issuance


def _changed_fields(secret: Mapping[str, Any], meta: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the Secret to replace; labels and annotations of others stay."""
    ours = secret["metadata"]
    return {
        "/data": secret["data"],
        "/metadata/ownerReferences": ours["ownerReferences"],
        "/metadata/labels": {**(meta.get("labels") or {}), **ours["labels"]},
        "/metadata/annotations": {**(meta.get("annotations") or {}), **ours["annotations"]},
    }


async def _next(
    deps: Dependencies, job: Job, found: Issuance | None, network: Network, now: datetime
) -> Issuance:
    trusted = await deps.authorities.trusted(job.uid, now)
    return next_issuance(found, trusted, names_of(job, network), now)


async def _manifest(
    deps: Dependencies, job: Job, issuance: Issuance, network: Network, now: datetime
) -> dict[str, Any]:
    authorities = await deps.authorities.of_job(job.key, job.uid, now)
    signer = authorities.by_version[issuance.signer]
    items = {"ca.crt": authorities.bundle}
    for role, member, dns in _leaf_owners(job, network):
        leaf = issue(signer, job.key, role, now, dns=dns, member=member)
        name = leaf_name(role, member)
        items[f"{name}.crt"], items[f"{name}.key"] = leaf.certificate, leaf.key
    return leaf_secret(job, items, annotate(issuance))


def _leaf_owners(job: Job, network: Network) -> Iterator[tuple[Role, str, tuple[str, ...]]]:
    """Role, party and DNS names of each leaf."""
    yield Role.COORDINATOR, "", network.certified_hosts(job.key)
    match job:
        case DistributedJob():
            yield Role.WORKER, "", ()
        case FederatedJob():
            for party in job.spec.local_parties:
                yield Role.PARTY, party.name, ()


def _check_owner(deps: Dependencies, job: Job, meta: Mapping[str, Any]) -> None:
    """Raise ApiError unless the Secret is this job's, or an earlier job's that is gone."""
    labels, owner = meta.get("labels") or {}, _controller(meta)
    if labels.get(names.LABEL_MANAGED_BY) != names.MANAGER:
        raise _refusal(job, f"is not Trainyard's{MEND}")
    if not owner or owner["uid"] == job.uid:
        return
    other = deps.cache.jobs.get(Key(owner["kind"], job.key.namespace, owner["name"]))
    is_of_a_job = owner["apiVersion"].startswith(f"{names.GROUP}/")
    if not is_of_a_job or (other is not None and other.uid == owner["uid"]):
        raise _refusal(job, f"belongs to {owner['kind']} {owner['name']}{MEND}")


def _controller(meta: Mapping[str, Any]) -> Mapping[str, Any]:
    """The owner reference of the object's controller; empty without one."""
    owners = meta.get("ownerReferences") or []
    return next((owner for owner in owners if owner.get("controller")), {})


def _refusal(job: Job, problem: str) -> ApiError:
    name = f"{job.key.namespace}/{names.leaf_secret_name(job.key.name)}"
    return ApiError(409, "AlreadyExists", f"Secret {name} {problem}")


def _path(job: Job) -> str:
    name = names.leaf_secret_name(job.key.name)
    return f"{collection('v1', 'secrets', job.key.namespace)}/{name}"
