"""Listing our own kinds and the priority classes, and what the leader keeps in order beside them.

kopf does not report which jobs disappeared while its watch was disconnected: a listing finds them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

from trainyard.api import names
from trainyard.api.jobs import Job, JobObject, UnreadableJobError, read_job
from trainyard.api.names import Key
from trainyard.cluster.client import KubeClient, collection
from trainyard.cluster.errors import ApiError
from trainyard.cluster.paging import JOB_PAGE_SIZE
from trainyard.cluster.store import Snapshot
from trainyard.reconcile.dependencies import Dependencies
from trainyard.reconcile.rotation import maintain_master, sweep_stored
from trainyard.scheduling.priority import DEFAULT_CLASS

log = logging.getLogger(__name__)

SERVED_SECONDS = 2.0
NOT_SERVED = (
    "the API server does not know {} of {} yet; if that stays so, install the CRDs: "
    "kubectl apply --server-side -f crds/"
)


async def resync(deps: Dependencies, dirty: set[Key]) -> None:
    """List jobs and priority classes into the cache; changed and missing jobs become `dirty`.

    They stay so if the listing fails half-way: the next one finds nothing new about them.
    """
    await _list_priorities(deps)
    before = deps.cache.jobs.snapshot()
    listed = await _list_jobs(deps, dirty, before)
    uids = {key: job.uid for key, job in before.objects.items()}
    dirty |= {gone.key for gone in deps.cache.jobs.remove_missing(uids, listed)}
    if deps.is_leader:
        await sweep_stored(deps, set(listed.values()))
        await maintain_master(deps, dirty)


async def until_served(client: KubeClient) -> None:
    """Return once the API server serves both kinds; meanwhile log which one is missing.

    kopf looks for its kinds only when it starts, and would never watch one that is added later.
    """
    while problem := await _find_missing_kinds(client):
        log.warning(problem)
        await asyncio.sleep(SERVED_SECONDS)


async def _find_missing_kinds(client: KubeClient) -> str:
    """Which of our kinds are not served, as a message; empty if all are."""
    served: set[str] = set()
    try:
        found = await client.get(f"/apis/{names.API_VERSION}")
        served = {resource["name"] for resource in found["resources"]}
    except ApiError as error:
        if error.is_transient:
            return f"the API server cannot be asked yet: {error}"
        if not error.is_missing:
            raise
    missing = " and ".join(sorted(set(names.PLURALS.values()) - served))
    return NOT_SERVED.format(missing, names.GROUP) if missing else ""


async def _list_jobs(
    deps: Dependencies, dirty: set[Key], before: Snapshot[Key, Job]
) -> dict[Key, str]:
    listed: dict[Key, str] = {}
    async for found in _all_jobs(deps):
        # An unreadable job exists all the same: what it owns must not be swept.
        listed[found.key] = found.metadata.uid
        try:
            job = found.parse()
        except UnreadableJobError as error:
            log.error("%s", error)
            continue
        if deps.cache.put_job(job, before=before):
            dirty.add(job.key)
    return listed


async def _all_jobs(deps: Dependencies) -> AsyncIterator[JobObject]:
    for kind, plural in names.PLURALS.items():
        for namespace in deps.options.namespaces or ("",):
            path = collection(names.API_VERSION, plural, namespace)
            async for page in deps.client.list_pages(path, page_size=JOB_PAGE_SIZE):
                for item in page.items:
                    try:
                        yield read_job(item, kind)
                    except UnreadableJobError as error:
                        log.error("%s", error)


async def learn_priorities(deps: Dependencies) -> None:
    """List the priority classes again if a job names one that the last listing did not contain."""
    cache = deps.cache
    named = {job.spec.priority_class_name for job in cache.jobs.values()} - {""}
    if not named <= cache.priorities.keys() | cache.unknown_priorities:
        await _list_priorities(deps)
        cache.unknown_priorities = frozenset(named - cache.priorities.keys())


async def _list_priorities(deps: Dependencies) -> None:
    path = collection("scheduling.k8s.io/v1", "priorityclasses")
    classes = [raw async for raw in deps.client.list_all(path)]
    values = {raw["metadata"]["name"]: int(raw["value"]) for raw in classes}
    # Kubernetes takes the lowest where several call themselves the default.
    defaults = [int(raw["value"]) for raw in classes if raw.get("globalDefault")]
    deps.cache.priorities = values | {DEFAULT_CLASS: min(defaults, default=0)}
    deps.cache.unknown_priorities = frozenset()
