"""What the leader does for the jobs' authorities in each resync: rotation of the master secret.

Each step is one conditional write, and what comes next is decided from what is stored: an operator
that ends between two steps leaves nothing that its successor does not continue.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from trainyard.api.jobs import Job
from trainyard.api.names import Key
from trainyard.cluster.errors import ApiError
from trainyard.cluster.master import Master, MasterError
from trainyard.cluster.stored_authorities import STORED
from trainyard.reconcile.dependencies import Dependencies

log = logging.getLogger(__name__)

RETIRE_AFTER = timedelta(hours=1)
"""The least age of a version before those before it go: another operator of the same namespace has
read it by then, and its jobs have it."""


async def maintain_master(deps: Dependencies, dirty: set[Key]) -> None:
    """Read the master, and take the next step of its rotation; all jobs are `dirty` if it changed.

    A master that cannot be used is logged, and shows at the jobs that need it.
    """
    now = deps.clock()
    try:
        before = await deps.authorities.master(now)
        master = await _step(deps, await deps.authorities.refresh(now), now)
    except MasterError as error:
        log.error("%s", error)
        return
    if master.versions != before.versions:
        log.info("versions of the master secret: %s", ", ".join(master.identifiers))
        dirty |= set(deps.cache.jobs)


async def sweep_stored(deps: Dependencies, uids: set[str]) -> None:
    """Delete the stored authorities of removed jobs in the namespaces that this operator serves."""
    stored, served = deps.authorities.stored, set(deps.options.namespaces)
    await stored.refresh()
    for uid, key in stored.owners():
        job = deps.cache.jobs.get(key)
        is_new = job is not None and job.uid == uid  # created since the jobs were listed
        if uid not in uids and not is_new and (not served or key.namespace in served):
            log.info("sweeping the certificate authority of the removed job %s", key)
            await stored.delete(uid)


async def _step(deps: Dependencies, master: Master, now: datetime) -> Master:
    """The master after a rotation or a retirement, where one is due."""
    store = deps.authorities.store
    try:
        if master.is_rotation_requested:
            return deps.authorities.keep(await store.rotate(master, now))
        if _may_retire(deps, master, now):
            return deps.authorities.keep(await store.retire(master))
    except ApiError as error:
        if not error.is_conflict:
            raise
        log.info("the master secret was changed meanwhile: %s", error)
    return master


def _may_retire(deps: Dependencies, master: Master, now: datetime) -> bool:
    """Whether every process of every job presents leaves of the newest version by now."""
    if len(master.versions) == 1 or not deps.is_clock_trusted:
        return False
    if now < master.newest.begins_at + RETIRE_AFTER:
        return False
    return all(
        _is_spread(deps, job, master.newest.identifier, now) for job in deps.cache.jobs.values()
    )


def _is_spread(deps: Dependencies, job: Job, version: str, now: datetime) -> bool:
    """Whether the job has no process that may hold a leaf of another version."""
    if job.is_finished or not job.is_ours:
        return True
    if not any(pod.is_live for pod in deps.cache.pods_of(job.key)):
        return True
    issuance = deps.job_state(job).children.issuance
    if issuance is None:
        return False
    return issuance.signer == STORED or issuance.is_spread(version, now)
