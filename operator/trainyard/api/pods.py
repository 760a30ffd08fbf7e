"""A pod cut down to what decisions need: a mirror of thousands of them must stay small."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypedDict

from trainyard.api import names
from trainyard.api.cluster import GpuPod
from trainyard.api.jobs import parse_time
from trainyard.api.names import Key, MemberId

FINISHED = ("Succeeded", "Failed")
DISRUPTIONS = ("Evicted", "NodeLost", "NodeShutdown", "Terminated", "Preempting", "Shutdown")
"""Pod reasons that say the cluster, not the pod, ended it."""
LONGEST_GRACE = 366 * 86_400
"""Seconds; anyone may write a pod whose grace period ends after the last of years."""
CONTAINER = "trainer"
"""Our container; others in the pod were put there by somebody else, for example a mesh."""


class _Meta(TypedDict, total=False):
    namespace: str
    name: str
    uid: str
    resourceVersion: str
    creationTimestamp: str
    deletionTimestamp: str
    deletionGracePeriodSeconds: int | None
    labels: dict[str, str] | None
    ownerReferences: list[dict[str, Any]]


class _Container(TypedDict, total=False):
    resources: dict[str, Any] | None


class _Spec(TypedDict, total=False):
    nodeName: str
    containers: list[_Container]


class _Status(TypedDict, total=False):
    phase: str
    podIP: str
    reason: str
    message: str
    conditions: list[dict[str, Any]]
    containerStatuses: list[dict[str, Any]]


class PodObject(TypedDict, total=False):
    """The fields that `parse_pod` reads: a fifth of a pod, so a decoder may skip the rest."""

    metadata: _Meta
    spec: _Spec
    status: _Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """One pod that we own, or that holds accelerators we would like to use."""

    namespace: str
    name: str
    uid: str
    resource_version: int
    created_at: datetime
    job: Key | None = None
    owner_uid: str = ""
    role: str = ""
    index: int = 0
    party: str = ""
    """The party that it is; empty for all other pods."""
    attempt: int = 0
    """For a coordinator this is its term."""
    node: str = ""
    ip: str = ""
    phase: str = "Pending"
    is_deleting: bool = False
    resource: str = ""
    gpus: int = 0
    exit_code: int | None = None
    reason: str = ""
    """Why it ended: `OOMKilled`, `Error`, `Evicted`, …"""
    termination_message: str = ""
    """Its termination message."""
    waiting_reason: str = ""
    """Why it does not start: `ImagePullBackOff`, `Unschedulable`, …"""
    waiting_message: str = ""
    ended_at: datetime | None = None
    is_disrupted: bool = False
    """It was ended from outside (drain, preemption, lost node, deletion); never held against the
    job."""

    @property
    def member(self) -> MemberId:
        """Whose place it takes among the pods of its role."""
        return self.party or self.index

    @property
    def is_finished(self) -> bool:
        """Whether it will never run again; it holds no accelerator then."""
        return self.phase in FINISHED

    @property
    def is_live(self) -> bool:
        """Whether it runs or will run."""
        return not self.is_finished and not self.is_deleting

    @property
    def is_running(self) -> bool:
        """Whether its container runs and nobody asked it to go."""
        return self.phase == "Running" and not self.is_deleting

    def as_gpu_pod(self) -> GpuPod:
        """The pod as the scheduler's rules see it."""
        return GpuPod(
            namespace=self.namespace,
            name=self.name,
            resource=self.resource,
            gpus=self.gpus,
            node=self.node,
            job=self.job,
            party=self.party,
            is_leaving=self.is_deleting,
        )


def parse_pod(raw: Mapping[str, Any]) -> Pod:
    """Cut an API object down; unknown labels and missing parts are left at their defaults."""
    meta, spec, status = raw["metadata"], raw["spec"], raw.get("status") or {}
    labels = meta.get("labels") or {}
    is_ours = labels.get(names.LABEL_MANAGED_BY) == names.MANAGER and names.LABEL_JOB in labels
    job = (
        Key(labels.get(names.LABEL_KIND, ""), meta["namespace"], labels[names.LABEL_JOB])
        if is_ours
        else None
    )
    resource, gpus = _gpus(spec)
    return Pod(
        namespace=meta["namespace"],
        name=meta["name"],
        uid=meta["uid"],
        resource_version=int(meta["resourceVersion"]),
        created_at=parse_time(meta["creationTimestamp"]),
        job=job,
        owner_uid=next((o["uid"] for o in meta.get("ownerReferences", ())), "") if is_ours else "",
        role=labels.get(names.LABEL_ROLE, ""),
        index=_number(labels.get(names.LABEL_INDEX)),
        party=labels.get(names.LABEL_PARTY, "") if is_ours else "",
        attempt=_number(labels.get(names.LABEL_ATTEMPT)),
        node=spec.get("nodeName", ""),
        ip=status.get("podIP", ""),
        phase=status.get("phase", "Pending"),
        is_deleting="deletionTimestamp" in meta,
        resource=resource,
        gpus=gpus,
        **_ending(status),
        **_waiting(status),
        is_disrupted=_is_disrupted(status) or _was_deleted(meta, status),
    )


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() else 0


def _gpus(spec: Mapping[str, Any]) -> tuple[str, int]:
    """The first accelerator-like extended resource that the pod's containers ask for."""
    total: dict[str, int] = {}
    for container in spec.get("containers", ()):
        limits = (container.get("resources") or {}).get("limits") or {}
        for resource, quantity in limits.items():
            if "/" in resource and str(quantity).isdecimal():
                total[resource] = total.get(resource, 0) + int(quantity)
    return max(total.items(), key=lambda item: item[1]) if total else ("", 0)


def _ending(status: Mapping[str, Any]) -> dict[str, Any]:
    ended = _ended(status)
    if ended is None:
        return {
            "reason": status.get("reason", ""),
            "termination_message": status.get("message", ""),
        }
    return {
        "exit_code": ended.get("exitCode"),
        "reason": status.get("reason") or ended.get("reason", ""),
        "termination_message": ended.get("message", ""),
        "ended_at": _finished_at(ended),
    }


def _ended(status: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The end of our container, else of the first that ended."""
    states = ((c.get("state") or {}).get("terminated") for c in _containers(status))
    return next((ended for ended in states if ended is not None), None)


def _containers(status: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    return sorted(status.get("containerStatuses", ()), key=lambda c: c.get("name") != CONTAINER)


def _finished_at(ended: Mapping[str, Any]) -> datetime | None:
    # Null where the kubelet lost sight of the container.
    return parse_time(ended["finishedAt"]) if ended.get("finishedAt") else None


def _was_deleted(meta: Mapping[str, Any], status: Mapping[str, Any]) -> bool:
    """Whether it ended after somebody had asked it to: a worker that the job no longer needs."""
    ended = _ended(status)
    if ended is None or "deletionTimestamp" not in meta:
        return False
    # The time stamp is that of the latest end; the request came a grace period earlier.
    grace = timedelta(seconds=min(meta.get("deletionGracePeriodSeconds") or 0, LONGEST_GRACE))
    ended_at = _finished_at(ended)
    return ended_at is not None and ended_at >= parse_time(meta["deletionTimestamp"]) - grace


def _waiting(status: Mapping[str, Any]) -> dict[str, Any]:
    for container in _containers(status):
        waiting = (container.get("state") or {}).get("waiting") or {}
        reason = waiting.get("reason", "")
        if reason not in ("", "ContainerCreating", "PodInitializing"):
            return {"waiting_reason": reason, "waiting_message": waiting.get("message", "")}
    for condition in status.get("conditions", ()):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return {
                "waiting_reason": condition.get("reason", ""),
                "waiting_message": condition.get("message", ""),
            }
    return {}


def _is_disrupted(status: Mapping[str, Any]) -> bool:
    if status.get("reason") in DISRUPTIONS:
        return True
    return any(
        c["type"] == "DisruptionTarget" and c["status"] == "True"
        for c in status.get("conditions", ())
    )
