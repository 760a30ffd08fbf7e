"""Whether kube-scheduler and the API server follow a decision, and what follows if they do not.

The ledger only believes that a worker fits: affinity, zones of volumes, quotas, webhooks and much
else is not in it. A pod that gets no node although the ledger has had one for it all the time is
evidence against the ledger, and what was reserved for it is released.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from trainyard.api.cluster import PodInfo
from trainyard.api.reasons import Reason
from trainyard.api.status import NotPlaced
from trainyard.scheduling.basis import SizeNotPlaced, WorkersNotPlaced
from trainyard.scheduling.capacity import Ledger
from trainyard.scheduling.proposal import Proposal, SchedulerSettings
from trainyard.scheduling.request import JobRequest
from trainyard.scheduling.shapes import PodShape

MAX_ATTEMPTS: Final = 1000
"""The most that a status counts."""
_MAX_DOUBLINGS: Final = 3
"""5, 10, 20, 40 minutes by default."""
_PROVISIONING_VOLUME: Final = "unbound immediate PersistentVolumeClaims"
"""What kube-scheduler says while a volume is being provisioned."""


class UnplacedPod(NamedTuple):
    """A pod of an admitted job that has no node, or does not exist as it was refused."""

    shape: PodShape
    since: datetime
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Overdue:
    """The pods of a job that got no node by their deadline, though the ledger had one."""

    pods: Mapping[PodShape, int] = field(default_factory=dict)
    message: str = ""
    """Why the first of them has none, in the words of kube-scheduler or the API server."""
    due_at: datetime | None = None
    """The first deadline of those that are not overdue yet."""
    room_since: Mapping[PodShape, datetime] = field(default_factory=dict)
    """Since when the ledger has had a node for them, by shape."""

    @property
    def count(self) -> int:
        """How many pods are overdue."""
        return sum(self.pods.values())


NONE_OVERDUE: Final = Overdue()


def unplaced_pods(
    job: JobRequest, unbound: Sequence[PodInfo], missing: int
) -> tuple[UnplacedPod, ...]:
    """The pods that wait for kube-scheduler, and those of `missing` ones that are refused."""
    shapes = {pod.party: pod.shape for pod in job.gang}
    found = [
        UnplacedPod(shape, pod.created_at, pod.scheduling_message)
        for pod in unbound
        if pod.created_at and (shape := shapes.get(pod.party) if job.gang else job.shape)
    ]
    if job.refusal is not None and not job.gang:
        found += [UnplacedPod(job.shape, job.refusal.since, job.refusal.message)] * missing
    return tuple(found)


def find_overdue(
    job: JobRequest,
    pods: Iterable[UnplacedPod],
    known: Mapping[PodShape, datetime],
    ledger: Ledger,
    now: datetime,
    settings: SchedulerSettings,
) -> Overdue:
    """The pods past their deadline; `known` is since when there was room at the last allocation.

    The time begins when the pod exists and the ledger has a node for one like it: what a pod
    holds that is terminating is not free, and a job that really waits for GPUs keeps its place.
    It begins again with each change of size: a pod may get the place of one that goes.
    """
    room: dict[PodShape, datetime] = {}
    overdue: Counter[PodShape] = Counter()
    message, deadlines = "", []
    for pod in pods:
        if pod.shape not in room and ledger.slots(pod.shape) > 0:
            room[pod.shape] = min(known.get(pod.shape, now), now)
        if (room_since := room.get(pod.shape)) is None:
            continue
        since = max(pod.since, room_since, job.decision_time or room_since)
        deadline = min(since, now) + _timeout(job, pod, settings)
        if now >= deadline:
            overdue[pod.shape] += 1
            message = message or pod.message
        else:
            deadlines.append(deadline)
    due_at = min(deadlines, default=None)
    return Overdue(pods=overdue, message=message, due_at=due_at, room_since=room)


def _timeout(job: JobRequest, pod: UnplacedPod, settings: SchedulerSettings) -> timedelta:
    """How long a pod may lack a node.

    kube-scheduler says nothing while it waits for a volume of a class that binds late.
    """
    is_silent = job.mounts_claims and not pod.message
    if is_silent or _PROVISIONING_VOLUME in pod.message:
        return max(settings.volume_timeout, settings.bind_timeout)
    return settings.bind_timeout


def shrink_to_placed(job: JobRequest, overdue: Overdue) -> Proposal | None:
    """Give up the workers that are overdue, never below the minimum; None if there are none."""
    current = job.admitted_workers
    if not overdue.count or current <= job.min_workers:
        return None
    size = max(job.min_workers, current - overdue.count)
    return Proposal(
        workers=size,
        at_least=size,
        reason=Reason.NOT_PLACED,
        basis=WorkersNotPlaced(not_placed=overdue.count, workers=current, message=overdue.message),
        is_mandatory=True,
    )


def limit_to_placed(job: JobRequest, proposal: Proposal, now: datetime) -> Proposal:
    """The proposal, but no larger than what was placed, until it is time to ask again."""
    current, memory = job.admitted_workers, job.not_placed
    most = largest_size(job, now)
    if memory is None or proposal.workers <= max(most, current):
        return proposal
    if proposal.at_least <= most and current < most:
        return replace(proposal, workers=most)
    basis = SizeNotPlaced(
        pending=proposal.basis, workers=memory.workers, retry_at=memory.retry_time
    )
    return replace(
        proposal,
        workers=current,
        at_least=current,
        reason=Reason.NOT_PLACED,
        basis=basis,
        curve=None,
        requeue_at=min(memory.retry_time, proposal.requeue_at or memory.retry_time),
    )


def largest_size(job: JobRequest, now: datetime) -> int:
    """The size above which workers were not placed a short while ago; else its maximum."""
    memory = job.not_placed
    if memory is None or now >= memory.retry_time:
        return job.max_workers
    return max(memory.workers, job.min_workers)


def remember_size(
    job: JobRequest,
    workers: int,
    reason: Reason,
    bound: int,
    now: datetime,
    settings: SchedulerSettings,
) -> NotPlaced | None:
    """What is not asked for again after a decision: forgotten once more workers are bound."""
    memory = job.not_placed
    if memory is not None and bound > memory.workers:
        memory = None
    if reason is not Reason.NOT_PLACED or workers >= job.admitted_workers:
        return memory
    attempts = 1 + (memory.attempts if memory else 0)
    pause = settings.not_placed_backoff * (1 << min(attempts - 1, _MAX_DOUBLINGS))
    return NotPlaced(workers=workers, attempts=min(attempts, MAX_ATTEMPTS), retry_time=now + pause)
