"""The controller: events in, reconciles out.

It owns the queues and knows which event touches what.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Mapping
from typing import Any

from trainyard.api.jobs import UnreadableJobError, parse_job
from trainyard.api.names import Key
from trainyard.api.nodes import parse_node
from trainyard.cluster.client import ApiError
from trainyard.reconcile.dependencies import Dependencies
from trainyard.reconcile.exchange import exchange
from trainyard.reconcile.job import reconcile
from trainyard.reconcile.queue import QueuePriority, WorkQueue
from trainyard.reconcile.resync import read_pod, resync
from trainyard.reconcile.scheduler import Scheduler

log = logging.getLogger(__name__)

RETRY_SECONDS = 2.0
RESYNC_SETTLE_SECONDS = 1.0
"""Several watches reconnect together; one listing serves them all."""


class Controller:
    """Mirror, queues and scheduler of one operator process."""

    def __init__(self, services: Dependencies) -> None:
        self.services = services
        options = services.options
        self.queue: WorkQueue[Key] = WorkQueue(
            "reconcile", self._reconcile, workers=options.workers
        )
        self.contacts: WorkQueue[Key] = WorkQueue(
            "contact", self._exchange, workers=options.exchanges, debounce_seconds=0.0
        )
        self.scheduler = Scheduler(services, self.queue.add, self.queue.add_after)
        self._resync_wanted = asyncio.Event()
        self.is_synced = False
        """Whether the first listing is complete; nothing is reconciled before."""
        self._acts = False
        """Whether this process reconciles; what a standby queued would only grow."""

    async def run(self) -> None:
        """List everything once, then reconcile until cancelled, as soon as this process may."""
        await self._first_resync()
        self.is_synced = True
        async with asyncio.TaskGroup() as group:
            # One that waits keeps its mirror whole all the same.
            group.create_task(self._resync_for_ever())
            group.create_task(self._act())

    async def _act(self) -> None:
        election = self.services.election
        if election is not None:
            await election.elected.wait()
            # The last leader's last acts may not have been heard of yet.
            await self._first_resync()
        self._acts = True
        # Decisions first: the statuses may be older than the last operator's last decision.
        await self.scheduler.try_schedule()
        for key in self.services.cache.jobs:
            self.queue.add(key)
        async with asyncio.TaskGroup() as group:
            group.create_task(self.queue.run())
            group.create_task(self.contacts.run())
            group.create_task(self.scheduler.run())

    def job_event(self, kind: str | None, raw: Mapping[str, Any]) -> None:
        """A job was listed (None), added, modified or deleted."""
        try:
            job = parse_job(raw)
        except UnreadableJobError as error:
            log.error("%s", error)
            return
        self._noticed_listing(kind)
        mirror = self.services.cache
        known = mirror.jobs.get(job.key)
        if kind == "DELETED":
            mirror.drop_job(job.key, job.uid)
        elif not mirror.put_job(job):
            return
        # Mostly our own status, which may be heard of before its request is answered: as a newcomer
        # the job would go behind all that have come since, with what its pods do.
        is_told = known and (known.uid, known.generation) == (job.uid, job.generation)
        self._enqueue(job.key, follows=bool(is_told))
        self.scheduler.trigger()

    def pod_event(self, kind: str, raw: Mapping[str, Any]) -> None:
        """A pod was added, modified or deleted: ours, or one that holds accelerators we share."""
        if (pod := read_pod(raw)) is None:
            return
        mirror = self.services.cache
        if kind == "DELETED":
            changed = mirror.drop_pod((pod.namespace, pod.name), pod.uid) is not None
        else:
            changed = mirror.put_pod(pod)
        if not changed:
            return
        if pod.job is not None:
            self._enqueue(pod.job, follows=True)
        if pod.gpus and (kind == "DELETED" or pod.is_finished or pod.job is None):
            self.scheduler.trigger()

    def node_event(self, kind: str | None, raw: Mapping[str, Any]) -> None:
        """A node was listed (None), added, modified or deleted."""
        self._noticed_listing(kind)
        node = parse_node(raw)
        mirror = self.services.cache
        changed = mirror.drop_node(node.name) if kind == "DELETED" else mirror.put_node(node)
        if changed:
            self.scheduler.trigger()

    def observe(self) -> None:
        """Bring the gauges up to date; called before they are read."""
        metrics, services = self.services.metrics, self.services
        metrics.queue.labels("reconcile").set(self.queue.depth)
        metrics.queue.labels("contact").set(self.contacts.depth)
        metrics.leader.set(services.is_leader)
        metrics.requests.set(services.client.requests)
        metrics.request_limit.set(services.client.throttle.limit)
        metrics.jobs.clear()
        phases = Counter((j.key.kind, j.status.phase) for j in services.cache.jobs.values())
        for (kind, phase), count in phases.items():
            metrics.jobs.labels(kind, phase or "New").set(count)

    def _enqueue(self, key: Key, *, follows: bool = False) -> None:
        if self._acts:
            priority = QueuePriority.HIGH if follows else QueuePriority.NORMAL
            self.queue.add(key, priority=priority)

    def pods_missed(self) -> None:
        """Pods may have changed without an event: list everything before long."""
        self._resync_wanted.set()

    def _noticed_listing(self, kind: str | None) -> None:
        # A listing after the first means that a watch was disconnected: what was deleted
        # meanwhile is not in it.
        if kind is None and self.is_synced:
            self._resync_wanted.set()

    async def _reconcile(self, key: Key) -> float | None:
        metrics = self.services.metrics
        try:
            with metrics.reconcile_seconds.time():
                outcome = await reconcile(self.services, key)
        except Exception:
            metrics.reconciles.labels("failed").inc()
            self.scheduler.trigger()  # it may have given back what it held before it failed
            raise
        metrics.reconciles.labels("failed" if outcome.refusal else "ok").inc()
        if outcome.schedule:
            self.scheduler.trigger()
        if outcome.exchange:
            self.contacts.add(key)
        if key not in self.services.cache.jobs:
            self.queue.forget(key)
            self.contacts.forget(key)
            await self.services.coordinators.forget_job(key)
        if outcome.refusal is not None:
            raise outcome.refusal  # the queue says so, and tries again with growing pauses
        return outcome.requeue_after

    async def _exchange(self, key: Key) -> float | None:
        return await exchange(self.services, key, self._on_report)

    def _on_report(self, key: Key) -> None:
        self.queue.add(key, priority=QueuePriority.HIGH)
        self.scheduler.trigger()

    async def _resync(self) -> None:
        self._resync_wanted.clear()  # by whatever was missed before the listing begins
        dirty: set[Key] = set()
        try:
            await resync(self.services, dirty)
        finally:
            for key in dirty:
                self._enqueue(key)
            self.scheduler.trigger()  # nodes and strangers' pods are nobody's in particular

    async def _first_resync(self) -> None:
        """List everything, however long the API server takes to come back."""
        while True:
            try:
                return await self._resync()
            except ApiError as error:
                if not error.is_passing:
                    raise
                log.warning("the cluster could not be listed yet: %s", error)
                await asyncio.sleep(RETRY_SECONDS)

    async def _resync_for_ever(self) -> None:
        interval = self.services.options.resync_interval.total_seconds()
        while True:
            pause = interval * random.uniform(0.8, 1.2)  # noqa: S311 - jitter, not a secret
            try:
                async with asyncio.timeout(pause):
                    await self._resync_wanted.wait()
                await asyncio.sleep(RESYNC_SETTLE_SECONDS)
            except TimeoutError:
                pass
            try:
                await self._resync()
            except Exception:
                log.exception("resync failed; it is tried again")
                self._resync_wanted.set()
