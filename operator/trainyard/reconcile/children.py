"""A job's children: the Secret that it has once, and its pods."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from trainyard.api.federation import PartySpec
from trainyard.api.jobs import DistributedJob, FederatedJob, Job
from trainyard.api.pods import Pod, parse_pod
from trainyard.api.spec import Workers
from trainyard.cluster.client import collection
from trainyard.cluster.errors import ApiError
from trainyard.cluster.issuance import check_at
from trainyard.lifecycle.diff import PodToCreate
from trainyard.logs import pod_fields
from trainyard.reconcile.dependencies import Dependencies
from trainyard.reconcile.leaves import create_leaves, ensure_leaves, names_of
from trainyard.reconcile.state import ChildrenState
from trainyard.render.network import Network
from trainyard.render.pods import coordinator_pod, party_pod, worker_pod
from trainyard_trainer.contract.env import Role

log = logging.getLogger(__name__)

CHILDREN_INTERVAL = timedelta(hours=1)
"""How often the Secret is ensured again: no watch tells when somebody changes it."""
SIDECAR_GRACE_SECONDS = 30
"""Kubernetes' own grace period, for what is left of a pod whose trainer has ended."""


async def ensure_children(
    deps: Dependencies, job: Job, state: ChildrenState, network: Network
) -> None:
    """Ensure the leaf Secret, unless it is still valid."""
    now = deps.clock()
    if await _is_valid(deps, job, state, network, now):
        return
    is_new = state.valid_until is None and not job.status.term
    ensure = create_leaves if is_new else ensure_leaves
    issuance = await ensure(deps, job, network, now)
    state.valid_until = min(check_at(issuance), now + CHILDREN_INTERVAL)
    state.issuance = issuance


async def _is_valid(
    deps: Dependencies, job: Job, state: ChildrenState, network: Network, now: datetime
) -> bool:
    """Whether this process ensured the Secret, and it is neither due nor outdated."""
    until, issuance = state.valid_until, state.issuance
    if until is None or issuance is None or now >= until:
        return False
    trusted = await deps.authorities.trusted(job.uid, now)
    return (trusted, names_of(job, network)) == (issuance.trusted, issuance.names)


async def create_pod(deps: Dependencies, job: Job, pod: PodToCreate, network: Network) -> bool:
    """Create the pod, or adopt the one of that name that this job has; whether it was adopted."""
    manifest = _pod_manifest(deps, job, pod, network)
    path = collection("v1", "pods", job.key.namespace)
    try:
        created = parse_pod(await deps.client.create(path, manifest))
    except ApiError as error:
        if not error.already_exists:
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


def _pod_manifest(
    deps: Dependencies, job: Job, pod: PodToCreate, network: Network
) -> dict[str, Any]:
    user = deps.options.run_as_user
    if pod.role is Role.COORDINATOR:
        label = deps.cache.nodes.accelerator_label
        return coordinator_pod(job, pod.attempt, network, label, user=user)
    nodes = deps.job_state(job).assignment.nodes
    match job:
        case DistributedJob():
            workers, index = job.spec.workers, int(pod.member)
            needed = _needs_device(deps, workers, workers.template.node_selector)
            return worker_pod(
                job, index, pod.attempt, network, nodes, needs_device=needed, user=user
            )
        case FederatedJob():
            party, common = job.spec.party(str(pod.member)), job.spec.template.node_selector
            needed = _needs_device(deps, party, {**common, **party.node_selector})
            return party_pod(
                job, party.name, pod.attempt, network, nodes, needs_device=needed, user=user
            )


def _needs_device(
    deps: Dependencies, member: Workers | PartySpec, selector: Mapping[str, str]
) -> bool:
    """Whether a worker or party must not train on the CPU: it requests GPUs that are real."""
    nodes = deps.cache.nodes
    return member.gpus > 0 and nodes.have_real_devices(member.gpu_resource, selector)


async def delete_pod(deps: Dependencies, job: Job, pod: Pod) -> None:
    """Delete the pod by uid, with its own grace period; a finished one at once."""
    path = f"{collection('v1', 'pods', pod.namespace)}/{pod.name}"
    # The pod's own is for a trainer that finishes its step.
    grace_seconds = SIDECAR_GRACE_SECONDS if pod.outcome and pod.holds_resources else None
    await deps.client.delete(path, uid=pod.uid, grace_seconds=grace_seconds)
    log.info("pod deleted", extra=pod_fields(job.key, pod))
