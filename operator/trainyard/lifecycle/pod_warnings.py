"""PURE: why a pod does not start, from its Events, where its status does not say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from trainyard.api.jobs import parse_time
from trainyard.api.pods import Pod
from trainyard.lifecycle.causes import PULL_REASONS, is_hopeless

MAX_MESSAGE: Final = 600
"""Characters kept of an Event's message: enough for the error of a mount or of a registry."""
MAX_REASON: Final = 128

_PULL_FAILED: Final = "Failed to pull image"
_SCHEDULING: Final = "FailedScheduling"
_REASONS: Final = (
    "FailedMount",
    "FailedMapVolume",
    "FailedAttachVolume",
    "FailedCreatePodSandBox",
    "NetworkNotReady",
    _SCHEDULING,
    "Failed",
    "BackOff",
)
"""Warnings that say why a pod does not start; others, as of DNS or probes, do not."""
_PROGRESS: Final = ("Pulling", "Pulled", "Created", "Started")
"""What a kubelet does once volumes and network are there: what it warned of before is over."""
_NEVER: Final = datetime.min.replace(tzinfo=UTC)


class PodWarning(NamedTuple):
    """A warning of a kubelet, kube-scheduler or controller about one pod."""

    reason: str
    message: str


def needs_events(pod: Pod) -> bool:
    """Whether the pod's status leaves open why it does not start.

    Until it starts, it may only be slow. Of an image that cannot be pulled, older kubelets say no
    more than that they pause.
    """
    if not pod.is_live or pod.is_running:
        return False
    return not pod.waiting_reason or (pod.waiting_reason in PULL_REASONS and not is_hopeless(pod))


def newest_warning(events: Iterable[Mapping[str, Any]], pod: Pod) -> PodWarning | None:
    """The newest warning that says why the pod does not start; None if none still holds."""
    newest: tuple[datetime, PodWarning] | None = None
    progress_at = _NEVER
    for event in events:
        at, reason = _time(event), str(event.get("reason") or "")
        if event.get("type") != "Warning":
            progress_at = max(progress_at, at) if reason in _PROGRESS else progress_at
        elif (warning := _warning(event, reason, pod)) and (newest is None or at >= newest[0]):
            newest = at, warning
    if newest is None:
        return None
    # Each new attempt to pull an image is progress too, and does not mean that the last one worked.
    is_over = newest[0] < progress_at and newest[1].reason not in PULL_REASONS
    return None if is_over else newest[1]


def _warning(event: Mapping[str, Any], reason: str, pod: Pod) -> PodWarning | None:
    if reason not in _REASONS or (reason == _SCHEDULING and pod.node):
        return None
    message = " ".join(str(event.get("message") or "").split())[:MAX_MESSAGE]
    if message.startswith(_PULL_FAILED):
        return PodWarning(PULL_REASONS[0], message)
    # Of a pod that cannot pull its image, the other warnings only repeat its status.
    if not message or pod.waiting_reason in PULL_REASONS:
        return None
    return PodWarning(reason[:MAX_REASON], message)


def _time(event: Mapping[str, Any]) -> datetime:
    """When it last happened; kube-scheduler counts repetitions in a series."""
    series, meta = event.get("series") or {}, event.get("metadata") or {}
    times = (
        series.get("lastObservedTime"),
        event.get("lastTimestamp"),
        event.get("eventTime"),
        meta.get("creationTimestamp"),
    )
    return next((parse_time(time) for time in times if time), _NEVER)


def with_warning(pod: Pod, warning: PodWarning | None) -> Pod:
    """The pod with what its Events say, where its status does not say more."""
    if warning is None or not needs_events(pod):
        return pod
    reason = pod.waiting_reason or warning.reason
    return replace(pod, waiting_reason=reason, waiting_message=warning.message)
