"""Listing everything: before the first reconcile, and now and then to find what no event told.

A deletion during a disconnect sends no event, so the mirror would keep a ghost for ever; and the
Secret of a job's authority lies where the job cannot own it, so one whose job is gone is swept.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from typing import Any

from trainyard.api import names
from trainyard.api.jobs import UnreadableJobError, parse_job
from trainyard.api.names import Key
from trainyard.api.nodes import parse_node
from trainyard.api.pods import Pod, parse_pod
from trainyard.cluster.cache import Names, PodKey
from trainyard.cluster.client import ApiError, KubeClient, collection
from trainyard.reconcile.dependencies import Dependencies

log = logging.getLogger(__name__)

SERVED_SECONDS = 2.0
NOT_SERVED = (
    "the API server does not know {} of {} yet; if that stays so, install the CRDs: "
    "kubectl apply --server-side -f crds/"
)
UNFINISHED = "status.phase!=Succeeded,status.phase!=Failed"
OURS = f"{names.LABEL_MANAGED_BY}={names.MANAGER}"


async def resync(services: Dependencies, dirty: set[Key]) -> None:
    """Bring the mirror up to date; the jobs that something unseen happened to become `dirty`.

    Those stay so when it fails half-way: what is in the mirror by then is news to nobody again.
    """
    before = services.cache.names()
    pods = await _pods(services, dirty)
    nodes = await _nodes(services)
    await _priorities(services)
    jobs = await _jobs(services, dirty)
    listed = Names(jobs=jobs, pods=pods, nodes=frozenset(nodes))
    dirty |= services.cache.forget_missing(before, listed)
    if services.is_leader:
        await _sweep(services, set(jobs.values()))


async def until_served(client: KubeClient) -> None:
    """Return once the API server knows both kinds; meanwhile say which one it does not know.

    kopf looks for its kinds at its start alone: of one that came later it would never hear.
    """
    while lack := await _lack(client):
        log.warning(lack)
        await asyncio.sleep(SERVED_SECONDS)


async def _lack(client: KubeClient) -> str:
    """What of our group kopf would not find now, in a sentence; empty when all is there."""
    served: set[str] = set()
    try:
        found = await client.get(f"/apis/{names.API_VERSION}")
        served = {resource["name"] for resource in found["resources"]}
    except ApiError as error:
        if error.is_passing:
            return f"the API server cannot be asked yet: {error}"
        if not error.is_missing:
            raise
    missing = " and ".join(sorted(set(names.PLURALS.values()) - served))
    return NOT_SERVED.format(missing, names.GROUP) if missing else ""


async def _jobs(services: Dependencies, dirty: set[Key]) -> dict[Key, str]:
    found: dict[Key, str] = {}
    async for raw in _all_jobs(services):
        meta = raw["metadata"]
        # One that cannot be read is there all the same: what it owns must not be swept.
        found[Key(raw["kind"], meta["namespace"], meta["name"])] = meta["uid"]
        try:
            job = parse_job(raw)
        except UnreadableJobError as error:
            log.error("%s", error)
            continue
        if services.cache.put_job(job):
            dirty.add(job.key)
    return found


async def _all_jobs(services: Dependencies) -> AsyncIterator[dict[str, Any]]:
    for kind, plural in names.PLURALS.items():
        async for raw in _everywhere(services, names.API_VERSION, plural):
            yield {"kind": kind, **raw}


async def _pods(services: Dependencies, dirty: set[Key]) -> dict[PodKey, str]:
    found: dict[PodKey, str] = {}
    for selectors in ({"label_selector": OURS}, {"field_selector": UNFINISHED}):
        async for raw in _everywhere(services, "v1", "pods", **selectors):
            meta = raw["metadata"]
            found[meta["namespace"], meta["name"]] = meta["uid"]
            pod = read_pod(raw)
            if pod and services.cache.put_pod(pod) and pod.job is not None:
                dirty.add(pod.job)
    return found


def read_pod(raw: Mapping[str, Any]) -> Pod | None:
    """The pod; None, and a line in the log, for one that would otherwise hide all others."""
    try:
        return parse_pod(raw)
    except (ArithmeticError, LookupError, TypeError, ValueError):
        meta = raw["metadata"]
        log.exception("pod %s/%s cannot be read", meta["namespace"], meta["name"])
        return None


async def _nodes(services: Dependencies) -> set[str]:
    found = set()
    async for raw in services.client.list_all(collection("v1", "nodes")):
        node = parse_node(raw)
        found.add(node.name)
        services.cache.put_node(node)
    return found


async def learn_priorities(services: Dependencies) -> None:
    """List the priority classes anew if a job names one that is younger than the last listing."""
    mirror = services.cache
    named = {job.spec.priority_class_name for job in mirror.jobs.values()} - {""}
    if not named <= mirror.priorities.keys() | mirror.unknown_priorities:
        await _priorities(services)
        mirror.unknown_priorities = frozenset(named - mirror.priorities.keys())


async def _priorities(services: Dependencies) -> None:
    path = collection("scheduling.k8s.io/v1", "priorityclasses")
    services.cache.priorities = {
        raw["metadata"]["name"]: int(raw["value"]) async for raw in services.client.list_all(path)
    }
    services.cache.unknown_priorities = frozenset()


async def _sweep(services: Dependencies, uids: set[str]) -> None:
    """Delete authorities whose job is gone, in the namespaces that this operator serves."""
    served = set(services.options.namespaces)
    async for uid, key in services.authorities.list_owners():
        job = services.cache.jobs.get(key)
        is_new = job is not None and job.uid == uid  # created since the jobs were listed
        if uid not in uids and not is_new and (not served or key.namespace in served):
            log.info("sweeping the certificate authority of %s, which is gone", key)
            await services.authorities.delete(uid)


async def _everywhere(
    services: Dependencies, api_version: str, plural: str, **selectors: str
) -> AsyncIterator[dict[str, Any]]:
    for namespace in services.options.namespaces or ("",):
        path = collection(api_version, plural, namespace)
        async for raw in services.client.list_all(path, **selectors):
            yield raw
