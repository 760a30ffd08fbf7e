"""The Events of pods that do not start: listed pod by pod, never watched.

A cluster has many more Events than pods, and few matter here: those of a pod whose own status does
not say why it stands still.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime, timedelta
from typing import Any

import msgspec

from trainyard.api.jobs import Job
from trainyard.api.pods import Pod
from trainyard.cluster.client import collection
from trainyard.cluster.errors import ApiError
from trainyard.lifecycle.pod_warnings import needs_events, newest_warning
from trainyard.logs import pod_fields
from trainyard.reconcile.dependencies import Dependencies
from trainyard.reconcile.state import PodEventsState

log = logging.getLogger(__name__)

INTERVAL = timedelta(seconds=25)
"""Between two listings of one pod's Events; kubelets repeat a warning every two minutes."""
PAUSE = timedelta(seconds=5)
"""Between two listings for one job: its pods mostly have one cause. Also when all slots are
taken."""
MAX_EVENTS = 100
"""Events of one pod that are read; repeated ones are counted by the API server, not listed."""
LIST_SECONDS = 5.0
"""The job's reconcile waits for the listing."""


async def refresh_warnings(
    deps: Dependencies, job: Job, state: PodEventsState, now: datetime
) -> datetime | None:
    """List the Events of one pod, if due; when to reconcile again for that, now if they changed."""
    after = deps.options.timeouts.pod_events_after
    pods = [
        pod for pod in deps.cache.pods_of(job.key) if pod.owner_uid == job.uid and needs_events(pod)
    ]
    state.retain({pod.uid for pod in pods})
    due = {pod.uid: _due_at(pod, state, after) for pod in pods}
    if not due:
        return None
    pod = min(pods, key=lambda p: due[p.uid])
    if due[pod.uid] > now:
        return due[pod.uid]
    if deps.event_slots.locked():
        return now + PAUSE
    async with deps.event_slots:
        events = await _list_events(deps, job, pod)
    state.listed_at[pod.uid] = now
    before, warning = state.warnings.pop(pod.uid, None), newest_warning(events, pod)
    if warning is not None:
        state.warnings[pod.uid] = warning
    if warning != before:
        return now
    due[pod.uid] = now + INTERVAL
    return max(min(due.values()), now + PAUSE)


def _due_at(pod: Pod, state: PodEventsState, after: timedelta) -> datetime:
    listed_at = state.listed_at.get(pod.uid)
    return pod.created_at + after if listed_at is None else listed_at + INTERVAL


async def _list_events(deps: Dependencies, job: Job, pod: Pod) -> list[dict[str, Any]]:
    """The first page of the pod's Events; none if they cannot be listed, as they only explain."""
    path = collection("v1", "events", pod.namespace)
    selector = f"involvedObject.uid={pod.uid}"
    pages = deps.client.list_pages(path, field_selector=selector, page_size=MAX_EVENTS)
    try:
        async with asyncio.timeout(LIST_SECONDS):
            async for page in pages:
                return [msgspec.json.decode(item) for item in page.items]
    except (ApiError, TimeoutError, msgspec.MsgspecError) as error:
        log.info("the Events of a pod cannot be listed: %s", error, extra=pod_fields(job.key, pod))
    return []
