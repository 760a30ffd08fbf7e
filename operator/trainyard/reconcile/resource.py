"""The job's own API object: whether it still exists, its status, its deletion."""

from __future__ import annotations

from typing import Any

import msgspec

from trainyard.api import names
from trainyard.api.jobs import Job, Status, with_status
from trainyard.cluster.client import METADATA, collection
from trainyard.cluster.errors import ApiError
from trainyard.cluster.throttle import Priority
from trainyard.reconcile.dependencies import Dependencies


def path_of(job: Job) -> str:
    """The API path of the job."""
    plural = names.PLURALS[job.key.kind]
    return f"{collection(names.API_VERSION, plural, job.key.namespace)}/{job.key.name}"


async def exists(deps: Dependencies, job: Job) -> bool:
    """Whether the API server still has the job; otherwise it is dropped from the cache.

    A deleted job loses its pods first. While the watch of jobs is down, these look like pods to
    replace, and Kubernetes would remove the replacements again.
    """
    try:
        meta = (await deps.client.get(path_of(job), accept=METADATA))["metadata"]
    except ApiError as error:
        if not drop_if_deleted(deps, job, error):
            raise
        return False
    if meta["uid"] == job.uid and "deletionTimestamp" not in meta:
        return True
    deps.cache.drop_job(job.key, job.uid)  # a later job of that name arrives by its own event
    return False


def drop_if_deleted(deps: Dependencies, job: Job, error: ApiError) -> bool:
    """Drop the job from the cache if the error says that it does not exist; whether it did.

    The event of its deletion may be seconds away, behind those of its last changes.
    """
    # A kind that is not served for a moment is NotFound too, but names no job.
    is_named = f'"{job.key.name}"' in error.message
    if not (error.is_missing and error.reason == "NotFound" and is_named):
        return False
    deps.cache.drop_job(job.key, job.uid)
    return True


async def update_status(deps: Dependencies, job: Job, status: Status) -> Job:
    """Write the status; raises ApiError, a conflict where the job has changed since `job`.

    An update costs the API server less than a merge patch, and that less than server-side apply.
    """
    encoded = msgspec.to_builtins(status)
    body: dict[str, Any] = {
        "apiVersion": names.API_VERSION,
        "kind": job.key.kind,
        "metadata": {
            "name": job.key.name,
            "namespace": job.key.namespace,
            # Another job of the same name, and a change since it was observed, are conflicts.
            "uid": job.uid,
            "resourceVersion": str(job.resource_version),
        },
        "status": encoded,
    }
    meta = await deps.client.update(f"{path_of(job)}/status", body, priority=Priority.STATUS)
    return with_status(job, encoded, int(meta["resourceVersion"]))


async def delete_job(deps: Dependencies, job: Job) -> None:
    """Delete the job, whose children Kubernetes then collects."""
    # In the version that was observed: a job whose time to live was changed since then stays.
    version = str(job.resource_version)
    await deps.client.delete(path_of(job), uid=job.uid, version=version)
