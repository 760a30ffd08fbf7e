"""Pods, reduced to what decisions need: a cache of thousands of them must stay small."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from sys import intern
from typing import Any, TypedDict

from trainyard.api import containers, names
from trainyard.api.cluster import PodInfo
from trainyard.api.containers import FINISHED_PHASES
from trainyard.api.jobs import parse_time
from trainyard.api.names import Key, MemberId
from trainyard.api.resources import ResourceAmounts, pod_requests

_DISRUPTION_REASONS = (
    "ContainerStatusUnknown",
    "Evicted",
    "NodeLost",
    "NodeShutdown",
    "Preempting",
    "Shutdown",
    "Terminated",
    # A kubelet refuses pods that were bound to its node, as when its devices are not back yet.
    "InvalidNodeInfo",
    "NodeAffinity",
    "NodeName",
    "NodePorts",
    "SMTAlignmentError",
    "TaintToleration",
    "TopologyAffinityError",
    "UnexpectedAdmissionError",
)
"""Reasons of a pod that the cluster ended, or whose node did not take it."""
_OUT_OF_RESOURCE = "OutOf"
"""Beginning of the reasons of a kubelet that lacks a resource, such as `OutOfnvidia.com/gpu`."""
MAX_GRACE_SECONDS = 366 * 86_400
"""Anyone may create a pod whose grace period is longer than `datetime` can express."""
_EPOCH = datetime.fromtimestamp(0, UTC)
_UNREAD = datetime.min.replace(tzinfo=UTC)


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
    restartPolicy: str


class _Spec(TypedDict, total=False):
    nodeName: str
    subdomain: str
    containers: list[_Container] | None
    initContainers: list[_Container] | None
    overhead: dict[str, Any] | None
    resources: dict[str, Any] | None


class _Status(TypedDict, total=False):
    phase: str
    podIP: str
    reason: str
    message: str
    conditions: list[dict[str, Any]]
    containerStatuses: list[dict[str, Any]] | None
    initContainerStatuses: list[dict[str, Any]] | None


class PodObject(TypedDict, total=False):
    """The fields that `parse_pod` reads: a fifth of a pod, so that a decoder may skip the rest."""

    metadata: _Meta
    spec: _Spec
    status: _Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A pod of ours, or one of somebody else while it may hold resources."""

    namespace: str
    name: str
    uid: str
    resource_version: int
    created_at: datetime = _UNREAD
    """Read of our own pods alone."""
    job: Key | None = None
    owner_uid: str = ""
    role: str = ""
    index: int = 0
    party: str = ""
    """The party that it is; empty for all other pods."""
    attempt: int = 0
    """For a coordinator this is its term."""
    subdomain: str = ""
    """The Service under which DNS serves the job's coordinator; see `render.network`."""
    node: str = ""
    ip: str = ""
    phase: str = "Pending"
    outcome: str = ""
    """The final phase by our container alone, once that has ended; others may go on beside it."""
    lingers: bool = False
    """Our container has ended, and another goes on that no kubelet ends by itself."""
    is_deleting: bool = False
    requests: ResourceAmounts = field(default_factory=dict, hash=False)
    exit_code: int | None = None
    reason: str = ""
    """Why it ended: `OOMKilled`, `Error`, `Evicted`, …"""
    termination_message: str = ""
    """Its own, else the message of its status."""
    waiting_reason: str = ""
    """Why it cannot start: `ImagePullBackOff`, `Unschedulable`, …"""
    waiting_message: str = ""
    ended_at: datetime | None = None
    is_disrupted: bool = False
    """The cluster ended it (drain, preemption, lost node, deletion): never the job's fault."""

    @property
    def member(self) -> MemberId:
        """Which worker or party it is; 0 for a coordinator."""
        return self.party or self.index

    @property
    def is_finished(self) -> bool:
        """Whether our container has ended, or the whole pod: neither is started again."""
        return bool(self.outcome) or self.phase in FINISHED_PHASES

    @property
    def is_orphaned(self) -> bool:
        """Whether it goes on with a job's labels and without an owner that would take it along."""
        return self.job is not None and not self.owner_uid and self.is_live

    @property
    def has_failed(self) -> bool:
        """Whether our container has failed, or the pod around it."""
        return (self.outcome or self.phase) == "Failed"

    @property
    def holds_resources(self) -> bool:
        """Whether it counts against its node, as it does until its last container has ended."""
        return self.phase not in FINISHED_PHASES

    @property
    def is_live(self) -> bool:
        """Whether it runs or will run."""
        return not self.is_finished and not self.is_deleting

    @property
    def is_running(self) -> bool:
        """Whether its container runs and it is not being deleted."""
        return self.phase == "Running" and self.is_live

    def as_pod_info(self) -> PodInfo:
        """The pod as the scheduler counts it."""
        return PodInfo(
            namespace=self.namespace,
            name=self.name,
            requests=self.requests,
            node=self.node,
            job=self.job,
            owner_uid=self.owner_uid,
            role=self.role,
            party=self.party,
            created_at=None if self.job is None else self.created_at,
            scheduling_message="" if self.node else self.waiting_message,
            is_deleting=self.is_deleting or self.is_finished,
        )


def is_disruption(reason: str) -> bool:
    """Whether a pod with this reason was ended by the cluster, and not by itself."""
    return reason in _DISRUPTION_REASONS or reason.startswith(_OUT_OF_RESOURCE)


def parse_pod(raw: Mapping[str, Any]) -> Pod:
    """Reduce an API object; without a label or a field, the default applies.

    Of somebody else's pod no more is kept than what it holds of which node: a cluster may have
    tens of thousands.
    """
    meta, spec, status = raw["metadata"], raw["spec"], raw.get("status") or {}
    labels = meta.get("labels") or {}
    is_ours = labels.get(names.LABEL_MANAGED_BY) == names.MANAGER and names.LABEL_JOB in labels
    return Pod(
        namespace=intern(meta["namespace"]),
        name=meta["name"],
        uid=meta["uid"],
        resource_version=int(meta["resourceVersion"]),
        node=intern(spec.get("nodeName", "")),
        phase=intern(status.get("phase", "Pending")),
        is_deleting="deletionTimestamp" in meta,
        requests=pod_requests(spec),
        **(_of_a_job(meta, labels, spec, status) if is_ours else {}),
    )


def _of_a_job(
    meta: Mapping[str, Any],
    labels: Mapping[str, str],
    spec: Mapping[str, Any],
    status: Mapping[str, Any],
) -> dict[str, Any]:
    """What is read of a pod that says that it is of a job."""
    kind = labels.get(names.LABEL_KIND, "")
    return {
        "created_at": parse_time(meta["creationTimestamp"]),
        "job": Key(kind, meta["namespace"], labels[names.LABEL_JOB]),
        "owner_uid": next((o["uid"] for o in meta.get("ownerReferences", ())), ""),
        "role": labels.get(names.LABEL_ROLE, ""),
        "index": _number(labels.get(names.LABEL_INDEX)),
        "party": labels.get(names.LABEL_PARTY, ""),
        "attempt": _number(labels.get(names.LABEL_ATTEMPT)),
        "subdomain": spec.get("subdomain", ""),
        "ip": status.get("podIP", ""),
        "outcome": containers.outcome(status),
        "lingers": containers.lingers(status),
        **_termination(status),
        **_waiting(status),
        "is_disrupted": _is_disrupted(status) or _was_deleted(meta, status),
    }


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() else 0


def _termination(status: Mapping[str, Any]) -> dict[str, Any]:
    terminated = containers.end_of(status)
    if terminated is None:
        return {
            "reason": status.get("reason", ""),
            "termination_message": status.get("message", ""),
        }
    return {
        "exit_code": terminated.get("exitCode"),
        "reason": status.get("reason") or terminated.get("reason", ""),
        "termination_message": terminated.get("message", ""),
        "ended_at": _finished_at(terminated),
    }


def _finished_at(terminated: Mapping[str, Any]) -> datetime | None:
    # Null where the kubelet has lost track of the container, the epoch where it never began.
    at = parse_time(terminated["finishedAt"]) if terminated.get("finishedAt") else _EPOCH
    return at if at > _EPOCH else None


def _was_deleted(meta: Mapping[str, Any], status: Mapping[str, Any]) -> bool:
    """Whether it ended after its deletion was requested, as of a worker that is not needed.

    Also if nobody knows when it ended: a kubelet that stops a pod before its container began
    reports an exit code of its own without a time, or no container at all.
    """
    if "deletionTimestamp" not in meta or not containers.has_ended(status):
        return False
    # The time stamp is the end of the grace period, which began with the request.
    grace = timedelta(seconds=min(meta.get("deletionGracePeriodSeconds") or 0, MAX_GRACE_SECONDS))
    ended_at = _finished_at(containers.end_of(status) or {})
    return ended_at is None or ended_at >= parse_time(meta["deletionTimestamp"]) - grace


def _waiting(status: Mapping[str, Any]) -> dict[str, Any]:
    if waiting := containers.blocked_by(status):
        message = waiting.get("message", "")
        return {"waiting_reason": waiting["reason"], "waiting_message": message}
    for condition in status.get("conditions", ()):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return {
                "waiting_reason": condition.get("reason", ""),
                "waiting_message": condition.get("message", ""),
            }
    return {}


def _is_disrupted(status: Mapping[str, Any]) -> bool:
    if is_disruption(status.get("reason") or ""):
        return True
    return any(
        c["type"] == "DisruptionTarget" and c["status"] == "True"
        for c in status.get("conditions", ())
    )
