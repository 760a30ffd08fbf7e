"""Scheduling cycles: requests of all jobs and the whole cluster go into `allocate`, decisions out.

One cycle at a time, with `allocate` in a thread so that events are handled meanwhile; triggers that
arrive during a cycle make one more. The first trigger of an idle scheduler acts at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from functools import partial

from trainyard.api.jobs import Job
from trainyard.api.names import Key
from trainyard.logs import job_fields
from trainyard.reconcile.dependencies import Dependencies
from trainyard.reconcile.isolation import allocate_isolated
from trainyard.reconcile.requests import CachedRequest, RequestCache
from trainyard.reconcile.resync import learn_priorities
from trainyard.render.events import decision_event
from trainyard.scheduling.allocation import allocate
from trainyard.scheduling.assignment import is_significant_change
from trainyard.scheduling.conversion import wants_gpus
from trainyard.scheduling.decision import Allocation, Decision
from trainyard.scheduling.request import JobRequest
from trainyard.scheduling.shapes import NodeMatcher, PodShape

log = logging.getLogger(__name__)

SOURCE = "the scheduler"
"""What its cycles are recorded as."""
PAUSE_PER_CYCLE = 5
"""A cycle is followed by a pause of this many times its duration, up to `MAX_PAUSE_SECONDS`: at
most a sixth of the time is spent deciding, however many jobs there are."""
MAX_PAUSE_SECONDS = 1.0
RETRY_SECONDS = 5.0
MESSAGE_UPDATES = 50
"""Waiting jobs whose messages may be updated each `messages_interval`; with more, each is updated
less often."""


class Scheduler:
    """Decides for all jobs, whenever something that matters has changed."""

    def __init__(
        self,
        deps: Dependencies,
        enqueue: Callable[[Key], None],
        enqueue_after: Callable[[Key, float], None],
    ) -> None:
        """`enqueue` has a job reconciled now, `enqueue_after` after a number of seconds."""
        self._deps = deps
        self._enqueue, self._enqueue_after = enqueue, enqueue_after
        self._requests = RequestCache(deps)
        self._failed: set[Key] = set()
        """Jobs that the latest cycle left out."""
        self._matcher = NodeMatcher()
        self._room_since: Mapping[Key, Mapping[PodShape, datetime]] = {}
        """Of the latest allocation."""
        self._triggered = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    def trigger(self) -> None:
        """Request another cycle."""
        self._triggered.set()

    async def run(self) -> None:
        """Run cycles until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._triggered.wait()
            self._triggered.clear()
            started = loop.time()
            await self.try_schedule()
            pause = (loop.time() - started) * PAUSE_PER_CYCLE
            await asyncio.sleep(min(pause, MAX_PAUSE_SECONDS))

    async def try_schedule(self) -> None:
        """Run a cycle; after a failure the assignments stay in force until the next try."""
        activity = self._deps.activity
        activity.expect(SOURCE)
        try:
            await self.schedule()
            activity.succeed(SOURCE)
        except Exception:
            log.exception("the scheduler failed; assignments stay as they are")
            self._deps.metrics.scheduling_failures.labels("cycle").inc()
            self._trigger_after(RETRY_SECONDS)

    async def schedule(self) -> None:
        """One cycle: decide over the whole cluster, and apply the decisions."""
        deps = self._deps
        await learn_priorities(deps)
        now = deps.clock()
        cached = self._requests.collect()
        requests = [entry.request for entry in cached.values()]
        cluster = deps.cache.cluster()
        with deps.metrics.decision_seconds.time():
            # Three scrapes missed in a row are no coincidence any more.
            settings = replace(deps.options.scheduling, stale_after=deps.scrape_interval * 3)
            allocate_for = partial(
                allocate,
                cluster=cluster,
                now=now,
                settings=settings,
                matcher=self._matcher,
                room_since=self._room_since,
            )
            allocation, failed = await asyncio.to_thread(allocate_isolated, allocate_for, requests)
        self._room_since = {key: d.room_since for key, d in allocation.items() if d.room_since}
        failed = {**self._requests.failed, **failed, **self._apply(allocation, cached, now)}
        self._record_failures(failed)
        self._trigger_when_due(allocation, now)

    def _apply(
        self, allocation: Allocation, cached: dict[Key, CachedRequest], now: datetime
    ) -> dict[Key, Exception]:
        """Apply the decisions; returns the jobs for which that failed."""
        failed: dict[Key, Exception] = {}
        message_interval = self._message_interval(allocation)
        for key, decision in allocation.items():
            job = self._deps.cache.jobs.get(key)
            # A job that changed while the cycle ran has triggered another one.
            if job is not None and _is_same(job, cached[key].job):
                try:
                    request = cached[key].request
                    self._apply_decision(job, request, decision, now, message_interval)
                except Exception as error:  # one job's failure must not stop the others
                    failed[key] = error
        return failed

    def _record_failures(self, failed: Mapping[Key, Exception]) -> None:
        """Show on each job whether it is left out; it is tried again with every cycle."""
        for key in [*failed, *(self._failed - failed.keys())]:
            error, state = failed.get(key), self._deps.job_states.get(key)
            message = f"{type(error).__name__}: {error}" if error else ""
            if error is not None:
                self._deps.metrics.scheduling_failures.labels("job").inc()
            if state is None or state.scheduling_failure == message:
                continue
            state.scheduling_failure = message
            if error is not None:
                log.error("the scheduler fails on a job", extra=job_fields(key), exc_info=error)
            self._enqueue(key)
        self._failed = set(failed)

    def _apply_decision(
        self,
        job: Job,
        request: JobRequest,
        decision: Decision,
        now: datetime,
        message_interval: float,
    ) -> None:
        state = self._deps.job_state(job)
        before = state.assignment.value
        if state.has_ended:
            return
        if before.assigned != request.assigned:
            self.trigger()  # it released its resources while the cycle ran
            return
        state.assignment.decide(job, decision, now)
        after = state.assignment.value
        if after is before:
            return
        if is_significant_change(before, after):
            self._count(decision, before.desired)
            _log_decision(job.key, decision, before.desired, after.message)
            if (event := decision_event(before, decision)) is not None:
                state.pending_events.append(event)
            self._enqueue(job.key)
        elif not after.assigned:
            self._enqueue_after(job.key, message_interval)
        elif after.reason != before.reason:
            self._enqueue_after(job.key, self._least_message_interval)

    def _message_interval(self, allocation: Allocation) -> float:
        """Seconds; the longer the queue, the more messages change each time that it moves."""
        waiting = sum(not decision.workers for decision in allocation.values())
        return self._least_message_interval * max(1.0, waiting / MESSAGE_UPDATES)

    @property
    def _least_message_interval(self) -> float:
        return self._deps.options.timeouts.messages_interval.total_seconds()

    def _count(self, decision: Decision, before: int) -> None:
        if decision.workers != before:
            labels = (decision.reason, "applied")
        elif decision.recommended != decision.workers:
            labels = (decision.reason, "recommended")
        else:
            return
        self._deps.metrics.decisions.labels(*labels).inc()

    def _trigger_when_due(self, allocation: Allocation, now: datetime) -> None:
        times = [d.requeue_at for d in allocation.values() if d.requeue_at is not None]
        if times:
            self._trigger_after(max((min(times) - now).total_seconds(), 0.05))

    def _trigger_after(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self.trigger)


def _log_decision(key: Key, decision: Decision, before: int, explanation: str) -> None:
    fields = {
        "reason": str(decision.reason),
        "workers": decision.workers,
        "workers_before": before,
        "recommended": decision.recommended,
        "expected_speedup": decision.expected_speedup,
        "explanation": explanation,
    }
    log.info("decision made", extra=job_fields(key) | fields)


def _is_same(job: Job, before: Job) -> bool:
    """Whether it is the job that was decided on, and still wants a decision."""
    return job is before or (job.uid == before.uid and wants_gpus(job))
