"""Pods whose job is gone and that Kubernetes does not collect: a person has to know of them."""

from __future__ import annotations

import logging

from trainyard.api.jobs import format_time
from trainyard.api.names import Key
from trainyard.api.pods import Pod
from trainyard.cluster.client import collection
from trainyard.cluster.errors import ApiError
from trainyard.lifecycle.messages import orphaned_pod
from trainyard.logs import pod_fields
from trainyard.reconcile.dependencies import Dependencies
from trainyard.render.events import EventSpec, pod_event

log = logging.getLogger(__name__)

ORPHANED = "Orphaned"


async def report_orphans(deps: Dependencies, key: Key) -> None:
    """Record a Warning on each pod that a deletion of the job with `--cascade=orphan` left.

    Such a pod is not deleted: whoever orphans pods wants them to stay.
    """
    for pod in deps.cache.pods_of(key):
        if pod.is_orphaned:
            await _report(deps, key, pod)


async def _report(deps: Dependencies, key: Key, pod: Pod) -> None:
    spec = EventSpec(type="Warning", reason=ORPHANED, message=orphaned_pod(key, pod))
    manifest = pod_event(pod, spec, format_time(deps.clock()), deps.options.identity)
    try:
        await deps.client.create(collection("v1", "events", pod.namespace), manifest)
    except ApiError as error:
        if not error.already_exists:
            log.info("an event of pod %s was refused: %s", pod.name, error)
        return
    log.warning("pod without a job", extra=pod_fields(key, pod))
