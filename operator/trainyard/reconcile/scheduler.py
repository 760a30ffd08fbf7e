"""The scheduler's tick: the whole cluster goes into `allocate`, decisions come out.

One tick at a time, in a thread of its own so that events go on meanwhile; pokes that arrive during
a tick make one more. The first poke of a quiet scheduler acts at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime

from trainyard.api.cluster import Cluster
from trainyard.api.jobs import Job
from trainyard.api.names import Key
from trainyard.reconcile.dependencies import Dependencies
from trainyard.reconcile.job import job_state
from trainyard.reconcile.requests import CachedRequest, RequestCache
from trainyard.reconcile.resync import learn_priorities
from trainyard.render.events import decision_event
from trainyard.scheduling.allocation import SchedulerSettings, allocate
from trainyard.scheduling.assignment import apply_decision, is_significant_change
from trainyard.scheduling.conversion import wants_gpus
from trainyard.scheduling.decision import Allocation, Decision
from trainyard.scheduling.request import JobRequest

log = logging.getLogger(__name__)

SHARE = 5
"""A tick is followed by a pause of this many times its duration, up to `PAUSE_CAP_SECONDS`: at
most a sixth of the time is spent deciding, however many jobs there are."""
PAUSE_CAP_SECONDS = 1.0
RETRY_SECONDS = 5.0
SENTENCES = 50
"""Waiting jobs whose sentences may be told anew in `messages_every`; more take turns."""


class Scheduler:
    """Decides for all jobs, whenever something that matters has changed."""

    def __init__(
        self,
        services: Dependencies,
        touch: Callable[[Key], None],
        remind: Callable[[Key, float], None],
    ) -> None:
        """`touch` has a job looked at now, `remind` in so many seconds."""
        self._services = services
        self._touch, self._remind = touch, remind
        self._demands = RequestCache(services)
        # Three readings missed in a row are no coincidence any more.
        self._settings = SchedulerSettings(stale_after=services.options.scrape_interval * 3)
        self._poked = asyncio.Event()
        self._alarm: asyncio.TimerHandle | None = None

    def trigger(self) -> None:
        """Have the next tick soon."""
        self._poked.set()

    async def run(self) -> None:
        """Tick until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._poked.wait()
            self._poked.clear()
            started = loop.time()
            await self.try_schedule()
            took = loop.time() - started
            await asyncio.sleep(min(took * SHARE, PAUSE_CAP_SECONDS))

    async def try_schedule(self) -> None:
        """Tick; after a failure the last allocation stays in force until the next try."""
        try:
            await self.schedule()
        except Exception:
            log.exception("the scheduler failed; decisions stay as they are")
            self._wake_after(RETRY_SECONDS)

    async def schedule(self) -> None:
        """One decision over the whole cluster."""
        services = self._services
        await learn_priorities(services)
        now = services.clock()
        asked = self._demands.collect()
        demands = [each.request for each in asked.values()]
        cluster = services.cache.cluster()
        with services.metrics.decision_seconds.time():
            allocation = await asyncio.to_thread(self._allocate, demands, cluster, now)
        self._apply(allocation, asked, now)
        self._set_alarm(allocation, now)

    def _allocate(self, demands: list[JobRequest], cluster: Cluster, now: datetime) -> Allocation:
        return allocate(demands, cluster, now, settings=self._settings)

    def _apply(
        self, allocation: Allocation, asked: dict[Key, CachedRequest], now: datetime
    ) -> None:
        pause = self._pause_between_sentences(allocation)
        for key, decision in allocation.items():
            job, basis = self._services.cache.jobs.get(key), asked[key]
            if job is None or not _is_same(job, basis.job):
                continue  # it changed while we decided; the change has poked us again
            state = job_state(self._services, job)
            before = state.scaling
            if state.has_ended:
                continue
            if before.assigned != basis.request.assigned:
                self.trigger()  # it gave its GPUs back while we decided
                continue
            after = apply_decision(job, before, decision, now)
            if after == before:
                continue
            state.scaling = after
            if is_significant_change(before, after):
                self._count(decision, before.desired)
                if (notice := decision_event(before, decision)) is not None:
                    state.pending_events.append(notice)
                self._touch(key)
            elif not after.assigned:
                self._remind(key, pause)
            elif after.reason != before.reason:
                self._remind(key, self._patience)

    def _pause_between_sentences(self, allocation: Allocation) -> float:
        """Seconds; the longer the queue, the more sentences change each time that it moves."""
        waiting = sum(not decision.workers for decision in allocation.values())
        return self._patience * max(1.0, waiting / SENTENCES)

    @property
    def _patience(self) -> float:
        return self._services.options.timeouts.messages_interval.total_seconds()

    def _count(self, decision: Decision, before: int) -> None:
        if decision.workers != before:
            labels = (decision.reason, "applied")
        elif decision.recommended != decision.workers:
            labels = (decision.reason, "recommended")
        else:
            return
        self._services.metrics.decisions.labels(*labels).inc()

    def _set_alarm(self, allocation: Allocation, now: datetime) -> None:
        moments = [d.requeue_at for d in allocation.values() if d.requeue_at is not None]
        if moments:
            self._wake_after(max((min(moments) - now).total_seconds(), 0.05))

    def _wake_after(self, seconds: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = asyncio.get_running_loop().call_later(seconds, self.trigger)


def _is_same(job: Job, before: Job) -> bool:
    """Whether it is the job that was decided on, and still wants a decision."""
    return job is before or (job.uid == before.uid and wants_gpus(job))
