"""What a pod's status says of its containers: how ours ended, and why it does not start.

Service meshes and others add containers to any pod. What counts is ours, not the pod's phase.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

FINISHED_PHASES: Final = ("Succeeded", "Failed")
CONTAINER: Final = "trainer"
"""The trainer's container, whatever its role."""
_STARTING: Final = ("", "ContainerCreating", "PodInitializing")
"""Reasons of a container that waits as each does at first."""

Status = Mapping[str, Any]


def has_finished(status: Status) -> bool:
    """Whether the pod has ended with all of its containers."""
    return status.get("phase") in FINISHED_PHASES


def has_ended(status: Status) -> bool:
    """Whether our container has ended, or the whole pod."""
    return has_finished(status) or _own_end(status) is not None


def outcome(status: Status) -> str:
    """The final phase by our container alone; empty before it has ended.

    Also of a pod with a reason of its own, such as one that was evicted: its phase says more.
    """
    end = _own_end(status)
    if end is None or (has_finished(status) and status.get("reason")):
        return ""
    return "Failed" if end.get("exitCode") else "Succeeded"


def lingers(status: Status) -> bool:
    """Whether the pod goes on without our container.

    Side-cars that are init containers do not count: a kubelet ends them after all others.
    """
    if has_finished(status) or _own_end(status) is None:
        return False
    return any(_state(container, "terminated") is None for container in _containers(status))


def end_of(status: Status) -> Mapping[str, Any] | None:
    """How our container ended.

    Of a pod that ended without it, how another one failed, or else the first one ended.
    """
    own = _own_end(status)
    if own is not None or not has_finished(status):
        return own
    containers = (*_init_containers(status), *_containers(status))
    ends = [end for each in containers if (end := _state(each, "terminated")) is not None]
    return next((end for end in ends if end.get("exitCode")), ends[0] if ends else None)


def blocked_by(status: Status) -> Mapping[str, Any]:
    """The waiting state of a container that does not start as usual; empty if there is none."""
    for container in _not_started(status):
        waiting = _state(container, "waiting") or {}
        if waiting.get("reason", "") not in _STARTING:
            return waiting
    return {}


def _not_started(status: Status) -> Iterator[Mapping[str, Any]]:
    """The containers that ours may wait for, ours first; a side-car may start anew meanwhile."""
    yield from sorted(_containers(status), key=lambda c: c.get("name") != CONTAINER)
    own = _own(status)
    if _state(own, "running") is None and _state(own, "terminated") is None:
        yield from _init_containers(status)


def _own_end(status: Status) -> Mapping[str, Any] | None:
    return _state(_own(status), "terminated")


def _own(status: Status) -> Mapping[str, Any]:
    """The status of our container; empty before there is one."""
    return next((c for c in _containers(status) if c.get("name") == CONTAINER), {})


def _containers(status: Status) -> tuple[Mapping[str, Any], ...]:
    return tuple(status.get("containerStatuses") or ())


def _init_containers(status: Status) -> tuple[Mapping[str, Any], ...]:
    return tuple(status.get("initContainerStatuses") or ())


def _state(container: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    state: Mapping[str, Any] | None = (container.get("state") or {}).get(name)
    return state
