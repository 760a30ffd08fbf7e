"""Admission on nodes that do not exist yet: what makes an autoscaler add them is a Pending pod.

Only the minimum of a waiting job buys nodes: growth never does.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from trainyard.api.cluster import Node, Taint
from trainyard.api.pools import NodePool
from trainyard.api.reasons import Reason
from trainyard.api.status import Provisioning
from trainyard.scheduling.basis import NodesAwaited, NodesNotAdded
from trainyard.scheduling.placement import MAX_ATTEMPTS
from trainyard.scheduling.proposal import Proposal, SchedulerSettings
from trainyard.scheduling.request import JobRequest
from trainyard.scheduling.shapes import PodShape, matches

_MAX_PAUSES: Final = 12
"""An hour of pauses of five minutes."""


class PoolCapacity:
    """Nodes that each declared pool may still add, while one allocation is worked out."""

    def __init__(self, settings: SchedulerSettings, nodes: Sequence[Node]) -> None:
        self.timeout = settings.provision_timeout
        """How long nodes are awaited."""
        self._pools = settings.pools
        self._left = {
            pool.name: pool.max_nodes - sum(_is_of(node, pool) for node in nodes)
            for pool in self._pools
        }

    def pledge(self, job: JobRequest, workers: int) -> None:
        """Count the nodes that are awaited for an admitted job."""
        for pool in self._pools:
            if job.provisioning is not None and pool.name == job.provisioning.pool:
                self._left[pool.name] -= _nodes_for(workers, pool, job.shape)

    def take(self, shape: PodShape, workers: int) -> tuple[str, int] | None:
        """The first pool that may still add nodes for so many workers, and how many it adds."""
        for pool in self._pools:
            nodes = _nodes_for(workers, pool, shape)
            if 0 < nodes <= self._left[pool.name]:
                self._left[pool.name] -= nodes
                return pool.name, nodes
        return None


def _is_of(node: Node, pool: NodePool) -> bool:
    return all(node.labels.get(key) == value for key, value in pool.labels.items())


def _nodes_for(workers: int, pool: NodePool, shape: PodShape) -> int:
    """Nodes that so many workers need; 0 if none of the pool could hold one."""
    accelerators = PodShape(
        requests=shape.accelerators, selector=shape.selector, tolerations=shape.tolerations
    )
    node = Node(
        name=pool.name,
        allocatable={pool.resource: pool.gpus},
        labels=pool.labels,
        taints=tuple(Taint(key=t.key, value=t.value, effect=t.effect) for t in pool.taints),
    )
    if not accelerators.requests or not matches(node, accelerators):
        return 0
    return -(-workers // accelerators.fits(node.allocatable))


def is_awaiting(job: JobRequest) -> bool:
    """Whether the job was admitted on nodes that a pool has yet to add."""
    return job.provisioning is not None and job.provisioning.retry_time is None


def paused_pool(job: JobRequest, now: datetime) -> Provisioning | None:
    """The pool that added no nodes for the job, until it is asked again; None if there is none."""
    memory = job.provisioning
    if memory is None or memory.retry_time is None or now >= memory.retry_time:
        return None
    return memory


def await_nodes(
    job: JobRequest, unbound: int, now: datetime, settings: SchedulerSettings
) -> Proposal | None:
    """Keep a job whose nodes are on their way, and release it when they did not come in time."""
    since = job.decision_time or job.admitted_at
    if not unbound or job.provisioning is None or not is_awaiting(job) or since is None:
        return None
    pool, workers = job.provisioning.pool, job.admitted_workers
    give_up_at = since + settings.provision_timeout
    if now < give_up_at:
        awaited = NodesAwaited(pool=pool, unbound=unbound, workers=workers, give_up_at=give_up_at)
        return Proposal(
            workers=workers,
            at_least=workers,
            reason=Reason.PROVISIONING,
            basis=awaited,
            requeue_at=give_up_at,
            is_mandatory=True,
        )
    retry_at = failed(job.provisioning, now, settings).retry_time or now
    return Proposal(
        workers=0,
        at_least=0,
        reason=Reason.NOT_PROVISIONED,
        basis=NodesNotAdded(pool=pool, unbound=unbound, workers=workers, retry_at=retry_at),
        is_mandatory=True,
    )


def failed(before: Provisioning, now: datetime, settings: SchedulerSettings) -> Provisioning:
    """The status after an attempt that brought no nodes: 5, 10, 20, 40, 60 minutes' pause."""
    attempts = min(before.attempts + 1, MAX_ATTEMPTS)
    pauses = min(1 << min(attempts - 1, _MAX_PAUSES), _MAX_PAUSES)
    retry_time = now + settings.not_placed_backoff * pauses
    return Provisioning(pool=before.pool, attempts=attempts, retry_time=retry_time)


def remember_pool(
    job: JobRequest, reason: Reason, now: datetime, settings: SchedulerSettings
) -> Provisioning | None:
    """What is known of the job's pool after a decision: forgotten once the job trains."""
    if job.provisioning is None or job.is_running:
        return None
    if reason is Reason.NOT_PROVISIONED and job.admitted_workers:
        return failed(job.provisioning, now, settings)
    return job.provisioning
