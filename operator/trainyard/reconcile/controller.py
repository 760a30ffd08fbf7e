"""The controller: events in, reconciles out.

It owns the informers and the queues, and knows which change concerns which job.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator

from trainyard.api.cluster import Node
from trainyard.api.jobs import UnreadableJobError, read_job
from trainyard.api.names import Key, namesake
from trainyard.api.pods import Pod
from trainyard.cluster.errors import ApiError
from trainyard.cluster.informer import Informer
from trainyard.reconcile.dependencies import Dependencies
from trainyard.reconcile.exchange import exchange
from trainyard.reconcile.informers import node_informer, pod_informers
from trainyard.reconcile.job import reconcile
from trainyard.reconcile.queue import QueuePriority, WorkQueue
from trainyard.reconcile.resync import resync
from trainyard.reconcile.scheduler import Scheduler

log = logging.getLogger(__name__)

RETRY_SECONDS = 2.0
RESYNC_SETTLE_SECONDS = 1.0
"""kopf's watches reconnect together; one listing of the jobs serves all of them."""


class Controller:
    """Informers, queues and scheduler of one operator process."""

    def __init__(self, deps: Dependencies) -> None:
        self.deps = deps
        options = deps.options
        self.queue: WorkQueue[Key] = WorkQueue(
            "reconcile", self._reconcile, workers=options.workers, group=_namespace_of
        )
        self.exchanges: WorkQueue[Key] = WorkQueue(
            "exchange",
            self._exchange,
            workers=options.exchanges,
            group=_namespace_of,
            share=options.exchanges_per_namespace,
            debounce_seconds=0.0,
        )
        self.scheduler = Scheduler(deps, self.queue.add, self.queue.add_after)
        self.informers: list[Informer[Pod] | Informer[Node]] = [
            *pod_informers(deps, self.pod_changed),
            node_informer(deps, self.node_changed),
        ]
        self._resync_requested = asyncio.Event()
        self.is_synced = False
        """Whether the first listing is complete; nothing is reconciled before."""
        self._is_active = False
        """Whether this process reconciles; the queues of a standby would only grow."""

    async def run(self) -> None:
        """List everything, then reconcile until cancelled once this process is the leader."""
        async with asyncio.TaskGroup() as group:
            for informer in self.informers:
                group.create_task(informer.run())
            for informer in self.informers:
                await informer.has_synced.wait()
            await self._until_success(self._resync)
            self.is_synced = True
            # A standby keeps its cache up to date all the same.
            group.create_task(self._resync_periodically())
            group.create_task(self._reconcile_as_leader())

    async def _reconcile_as_leader(self) -> None:
        election = self.deps.election
        if election is not None:
            await election.elected.wait()
        async with asyncio.TaskGroup() as group:
            if (installations := self.deps.installations) is not None:
                group.create_task(installations.run())
                await installations.confirmed.wait()
            if election is not None:
                # Events of the last leader's last actions may not have arrived yet.
                await self._until_success(self._list_everything)
            self._is_active = True
            # Decisions first: the statuses may be older than the last operator's last decision.
            await self.scheduler.try_schedule()
            for key in self.deps.cache.jobs:
                self.queue.add(key)
            group.create_task(self.queue.run())
            group.create_task(self.exchanges.run())
            group.create_task(self.scheduler.run())

    def job_event(self, event_type: str | None, encoded: str) -> None:
        """Handle an event of kopf: a job was listed (None), added, modified or deleted."""
        try:
            job = read_job(encoded).parse()
        except UnreadableJobError as error:
            log.error("%s", error)
            return
        if event_type is None and self.is_synced:
            # kopf lists again after a disconnect: jobs that were deleted meanwhile have no event.
            self._resync_requested.set()
        cache = self.deps.cache
        known = cache.jobs.get(job.key)
        if event_type == "DELETED":
            cache.drop_job(job.key, job.uid)
        elif not cache.put_job(job):
            # The response to our own status write came first, and no decision was made on it.
            self.scheduler.trigger()
            return
        # Mostly our own status, whose event may come before the response. As a newcomer the job
        # would be queued behind all that have arrived since, together with what its pods do.
        is_same_spec = known and (known.uid, known.generation) == (job.uid, job.generation)
        self._enqueue(job.key, QueuePriority.HIGH if is_same_spec else QueuePriority.NORMAL)
        self.scheduler.trigger()

    def pod_changed(self, old: Pod | None, new: Pod | None) -> None:
        """Handle a change of a pod: ours, or one that holds what our jobs may wait for."""
        for key in _jobs_of(old, new):
            self._enqueue(key, QueuePriority.HIGH)
        is_released = new is None or not new.holds_resources
        is_foreign = (new or old) is not None and all(
            p is None or p.job is None for p in (old, new)
        )
        is_refused = _scheduling_message(old) != _scheduling_message(new)
        if is_released or is_refused or (is_foreign and _held(old) != _held(new)):
            self.scheduler.trigger()

    def node_changed(self, _old: Node | None, _new: Node | None) -> None:
        """Handle a change of a node."""
        self.scheduler.trigger()

    def observe(self) -> None:
        """Update the gauges; called before they are read."""
        metrics, deps = self.deps.metrics, self.deps
        metrics.queue.labels("reconcile").set(self.queue.depth)
        metrics.queue.labels("exchange").set(self.exchanges.depth)
        metrics.leader.set(deps.is_leader)
        metrics.requests.set(deps.client.requests)
        metrics.request_limit.set(deps.client.throttle.limit)
        metrics.jobs.clear()
        phases = Counter((j.key.kind, j.status.phase) for j in deps.cache.jobs.values())
        for (kind, phase), count in phases.items():
            metrics.jobs.labels(kind, phase or "New").set(count)

    def _enqueue(self, key: Key, priority: QueuePriority = QueuePriority.NORMAL) -> None:
        """Reconcile the job, and one of the other kind that may wait for its name."""
        if not self._is_active:
            return
        self.queue.add(key, priority=priority)
        other = namesake(key)
        if self.deps.cache.jobs.get(other) is not None:
            self.queue.add(other, priority=priority)

    async def _reconcile(self, key: Key) -> float | None:
        metrics = self.deps.metrics
        try:
            with metrics.reconcile_seconds.time():
                result = await reconcile(self.deps, key)
        except Exception:
            metrics.reconciles.labels("failed").inc()
            self.scheduler.trigger()  # it may have released resources before it failed
            raise
        metrics.reconciles.labels("failed" if result.refusal else "ok").inc()
        if result.schedule:
            self.scheduler.trigger()
        if result.exchange:
            self.exchanges.add(key)
        if key not in self.deps.cache.jobs:
            self.queue.forget(key)
            self.exchanges.forget(key)
            await self.deps.coordinators.forget_job(key)
        if result.refusal is not None:
            if result.requeue_after is not None:
                self.queue.add_after(key, result.requeue_after)  # a start has its deadline
            raise result.refusal  # the queue logs it and retries with growing pauses
        return result.requeue_after

    async def _exchange(self, key: Key) -> float | None:
        return await exchange(self.deps, key, self._on_report, self._on_overdue)

    def _on_report(self, key: Key) -> None:
        self.queue.add(key, priority=QueuePriority.HIGH)
        self.scheduler.trigger()

    def _on_overdue(self, key: Key) -> None:
        self.queue.add(key, priority=QueuePriority.HIGH)

    async def _resync(self) -> None:
        self._resync_requested.clear()  # covers whatever was missed before the listing begins
        dirty: set[Key] = set()
        try:
            await resync(self.deps, dirty)
        finally:
            for key in dirty:
                self._enqueue(key)
            self.scheduler.trigger()

    async def _list_everything(self) -> None:
        for informer in self.informers:
            await informer.relist()
        await self._resync()

    async def _until_success(self, listing: Callable[[], Awaitable[None]]) -> None:
        """Repeat a listing, however long the API server takes to come back."""
        while True:
            try:
                return await listing()
            except ApiError as error:
                if not error.is_transient:
                    raise
                log.warning("the cluster could not be listed yet: %s", error)
                await asyncio.sleep(RETRY_SECONDS)

    async def _resync_periodically(self) -> None:
        interval = self.deps.options.resync_interval.total_seconds()
        while True:
            pause = interval * random.uniform(0.8, 1.2)  # noqa: S311 - jitter, not a secret
            try:
                async with asyncio.timeout(pause):
                    await self._resync_requested.wait()
                await asyncio.sleep(RESYNC_SETTLE_SECONDS)
            except TimeoutError:
                pass
            try:
                await self._resync()
            except Exception:
                log.exception("the resync failed and will be retried")
                self._resync_requested.set()


def _namespace_of(key: Key) -> str:
    return key.namespace


def _held(pod: Pod | None) -> object:
    """What of a node the pod holds, and whether it is about to release it."""
    return None if pod is None or not pod.node else (pod.node, pod.requests, pod.is_deleting)


def _scheduling_message(pod: Pod | None) -> str:
    """Why kube-scheduler has not bound the pod."""
    return "" if pod is None or pod.node else pod.waiting_message


def _jobs_of(*states: Pod | None) -> Iterator[Key]:
    return iter({pod.job for pod in states if pod is not None and pod.job is not None})
