"""PURE: Which failed pods a status has: those are neither counted again nor kept."""

from __future__ import annotations

from trainyard.api.federation import FederatedJobStatus
from trainyard.api.jobs import Status
from trainyard.api.podset import MEMBER_ROLES, JobPods


def recorded_uids(status: Status, pods: JobPods) -> frozenset[str]:
    """The uids of the failed pods that the status has.

    Of a member with a record of its own it has the last one, so that earlier pods of this member
    are recorded too.
    """
    recorded = failed_uids(status)
    members = [pod for pod in pods.finished if pod.role in MEMBER_ROLES]
    own = recorded if isinstance(status, FederatedJobStatus) else _own_uids(status)
    last = {pod.member: pod.attempt for pod in members if pod.uid in own}
    return recorded.union(p.uid for p in members if p.attempt < last.get(p.member, 0))


def failed_uids(status: Status) -> frozenset[str]:
    """The uids of all failures in the status: the job's last ones, and the last of each member."""
    return _own_uids(status).union(failure.pod_uid for failure in status.failures)


def _own_uids(status: Status) -> frozenset[str]:
    """The uids of the failures that members have records of."""
    if isinstance(status, FederatedJobStatus):
        return frozenset(party.failure.pod_uid for party in status.parties if party.failure)
    return frozenset(failure.pod_uid for failure in status.worker_failures)
