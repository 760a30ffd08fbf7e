"""What one cycle of the allocation decides on: the jobs, and where their pods are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from trainyard.api.cluster import Cluster, PodInfo
from trainyard.api.names import Key
from trainyard.api.podset import MEMBER_ROLES
from trainyard.scheduling.capacity import Ledger
from trainyard.scheduling.gangs import unbound_shapes
from trainyard.scheduling.placement import NONE_OVERDUE, Overdue, find_overdue, unplaced_pods
from trainyard.scheduling.proposal import Proposal, SchedulerSettings
from trainyard.scheduling.provisioning import is_awaiting
from trainyard.scheduling.request import JobRequest
from trainyard.scheduling.shapes import PodShape
from trainyard.scheduling.usage import ClusterUsage
from trainyard_trainer.contract.env import Role

_EPOCH: Final = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulingCycle:
    """The input of one cycle."""

    queue: Sequence[JobRequest]
    """All jobs, waiting and admitted, in queue order."""
    usage: ClusterUsage
    bound_nodes: Mapping[Key, Counter[str]]
    """Workers' pods bound to a node, by job and node."""
    bound_parties: Mapping[Key, frozenset[str]]
    """Parties whose pod is bound to a node, by job."""
    unbound_pods: Mapping[Key, Sequence[PodInfo]]
    """Pods of workers and parties that wait for a node, by job."""
    room_since: Mapping[Key, Mapping[PodShape, datetime]]
    """Since when there was a node for them at the last allocation."""
    now: datetime
    settings: SchedulerSettings

    def unbound(self, job: JobRequest, workers: int) -> int:
        """How many of the job's workers still need resources that no pod of theirs holds."""
        return max(0, workers - self.bound_nodes.get(job.key, Counter()).total())

    def overdue(self, job: JobRequest, ledger: Ledger) -> Overdue:
        """The pods of an admitted job that should have a node by now."""
        pods = self.unbound_pods.get(job.key, ())
        if not pods and job.refusal is None:
            return NONE_OVERDUE
        unbound = self.unbound(job, job.admitted_workers)
        if not job.gang:
            pods = pods[:unbound]  # those of workers given up in this allocation go
        unplaced = unplaced_pods(job, pods, unbound - len(pods))
        known = self.room_since.get(job.key, {})
        return find_overdue(job, unplaced, known, ledger, self.now, self.settings)

    def outstanding(
        self, job: JobRequest, proposal: Proposal | None, overdue: Overdue
    ) -> Mapping[PodShape, int]:
        """What an admitted job certainly keeps and has no pod for yet; a gang has no proposal.

        Nothing is kept for pods that kube-scheduler did not bind though there was a node.
        """
        if proposal is None:
            bound = self.bound_parties.get(job.key, frozenset())
            return unbound_shapes(job, bound) - Counter(overdue.pods)
        kept = job.admitted_workers
        if proposal.is_applied(job):
            kept = min(kept, proposal.workers)
        missing = self.unbound(job, kept)
        if proposal.workers >= job.admitted_workers and not is_awaiting(job):
            missing -= overdue.count
        return {job.shape: missing} if missing > 0 else {}

    def could_be_whole(self, job: JobRequest, shape: PodShape, missing: int) -> bool:
        """Whether the missing pods would fit beside the job's others if no other job ran."""
        candidates = self.usage.candidates(shape)
        bound = self.bound_nodes.get(job.key, Counter())
        present = sum(bound[name] for name in bound.keys() & candidates.attainable)
        return candidates.attainable_capacity >= missing + present


def bound_nodes(cluster: Cluster) -> dict[Key, Counter[str]]:
    """The nodes of workers' pods, by job."""
    found: dict[Key, Counter[str]] = {}
    for key, pod in cluster.assigned_pods():
        if pod.role == Role.WORKER:
            found.setdefault(key, Counter())[pod.node] += 1
    return found


def unbound_pods(cluster: Cluster) -> dict[Key, list[PodInfo]]:
    """The pods of workers and parties that have no node, by job, oldest first."""
    found: dict[Key, list[PodInfo]] = {}
    for key, pod in cluster.unbound_pods():
        if pod.role in MEMBER_ROLES and pod.created_at is not None:
            found.setdefault(key, []).append(pod)
    return {key: sorted(pods, key=_by_age) for key, pods in found.items()}


def _by_age(pod: PodInfo) -> tuple[datetime, str]:
    return pod.created_at or _EPOCH, pod.name
