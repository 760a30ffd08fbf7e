"""One job of either kind: observe → decide → render → plan → apply → report.

What differs between the kinds is in the rooms below: what is wanted (`policy`), what it is made of
(`render`), and what the status tells of it.

Idempotent and level-triggered: it looks at what is, never at what happened, and would reach the
same state from any starting point.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime, timedelta
from typing import Any

import msgspec

from trainyard.api import names
from trainyard.api.jobs import Job, Status, format_time, parse_job
from trainyard.api.names import Key
from trainyard.api.podset import Roster, sort_pods
from trainyard.cluster.client import ApiError, collection
from trainyard.cluster.throttle import Lane
from trainyard.lifecycle.conditions import with_refusal
from trainyard.lifecycle.desired import Verdict, earliest
from trainyard.lifecycle.diff import Steps, plan
from trainyard.lifecycle.observation import Look
from trainyard.lifecycle.stages import judge
from trainyard.lifecycle.status import Findings, is_urgent, status_of
from trainyard.reconcile.children import (
    create_pod,
    delete_job,
    delete_pod,
    ensure_children,
    job_path,
)
from trainyard.reconcile.dependencies import Services
from trainyard.reconcile.state import JobState
from trainyard.render.events import event, notices
from trainyard.render.trainer_config import AnyPlan, numbered, plan_of
from trainyard.scheduling.assignment import initial_holding, measure, refuse_start, release
from trainyard.scheduling.conversion import wants_gpus
from trainyard_trainer.contract import Role

log = logging.getLogger(__name__)

CONFLICT_PAUSE = timedelta(seconds=1)
"""The event of what somebody else has written comes sooner, unless the watch is broken."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What the controller does after a reconcile."""

    again_seconds: float | None = None
    tick: bool = False
    """GPUs were released or are wanted: the scheduler should look."""
    contact: bool = False
    """The coordinator should be talked to now."""
    refusal: ApiError | None = None
    """What the API server refused; the rest was done all the same."""


async def reconcile(services: Services, key: Key) -> Outcome:
    """Bring one job a step closer to what is wanted of it."""
    job = services.mirror.jobs.get(key)
    if job is None or job.is_deleting:
        return await _forget(services, key, job)
    if not job.is_ours:
        return Outcome()
    state = remember(services, job)
    if not state.scaling.reason and not state.scaling.desired and wants_gpus(job):
        return Outcome(tick=True)  # nothing decided yet: the scheduler comes first
    roster = sort_pods(services.mirror.pods_of(key), job.uid)
    now = services.clock()
    verdict = judge(_look(services, job, state, roster, now))
    if verdict.delete_job:
        await delete_job(services, job)
        return Outcome()
    was_holding, state.has_ended = state.scaling.desired, verdict.completed
    _settle_scaling(state, verdict, services, now)
    state.plan = _wanted_plan(job, state, verdict)
    steps = _steps(job, roster, verdict, now)
    if _replaces(steps) and not await _is_there(services, job):
        return Outcome(again_seconds=0)
    refusal, is_behind = await _apply(services, job, state, verdict, steps)
    if refusal is not None:
        verdict = with_refusal(verdict, refusal.message)
    due_at = await _report(services, job, state, verdict, now)
    children_at = state.children_until if verdict.wish.coordinator else None
    return Outcome(
        again_seconds=0
        if is_behind
        else _seconds_until(now, verdict.again_at, steps.again_at, due_at, children_at),
        tick=was_holding != state.scaling.desired,
        contact=_needs_contact(state, roster),
        refusal=refusal,
    )


def remember(services: Services, job: Job) -> JobState:
    """What this process knows of the job; begun from its status and its pods."""
    state = services.memory.jobs.get(job.key)
    if state is None or state.uid != job.uid:
        pods = services.mirror.pods_of(job.key)
        state = JobState(
            uid=job.uid,
            scaling=initial_holding(job, pods),
            plan_generation=job.status.plan_generation,
        )
        services.memory.jobs[job.key] = state
    return state


async def _forget(services: Services, key: Key, job: Job | None) -> Outcome:
    """A job that is gone leaves one thing behind that Kubernetes does not collect."""
    if job is not None:
        return Outcome()  # its owner references do the rest; the deletion's event comes back here
    state = services.memory.jobs.pop(key, None)
    if state is not None:
        await services.authorities.delete(state.uid)
    return Outcome(tick=True)


def _look(services: Services, job: Job, state: JobState, roster: Roster, now: datetime) -> Look:
    return Look.at(job, roster, state.scaling, state.report, services.options.limits, now)


def _settle_scaling(state: JobState, verdict: Verdict, services: Services, now: datetime) -> None:
    if verdict.refuse_start:
        pause = services.options.limits.start_backoff
        state.scaling = refuse_start(state.scaling, pause, verdict.release, now)
        # What its pods waited for may be a Secret that somebody deleted.
        state.children_until = state.children_until and now
    elif verdict.release and (state.scaling.desired or not state.scaling.reason):
        state.scaling = release(state.scaling, verdict.phase, verdict.release)
    if state.report is not None:
        state.scaling = measure(state.scaling, state.report)


def _wanted_plan(job: Job, state: JobState, verdict: Verdict) -> AnyPlan | None:
    """The Plan for the coordinator; a change of content raises the generation."""
    old = state.plan
    wanted = plan_of(job, verdict, old)
    if wanted is None or wanted == old:
        return wanted
    generation = max(state.plan_generation, state.acknowledged[1], old.generation if old else 0) + 1
    state.plan_generation = generation
    return numbered(wanted, generation)


def _steps(job: Job, roster: Roster, verdict: Verdict, now: datetime) -> Steps:
    recorded = frozenset(f.uid for f in job.status.failures)
    return plan(verdict.wish, roster, recorded, job.status.term, now)


def _replaces(steps: Steps) -> bool:
    return any(slot.attempt > 1 for slot in steps.create)


async def _is_there(services: Services, job: Job) -> bool:
    """Whether the server still has the job: a deleted one loses its pods before all else.

    While the watch of jobs is down that looks like pods to replace, and Kubernetes would remove
    those again.
    """
    try:
        meta = (await services.client.get(job_path(job)))["metadata"]
    except ApiError as error:
        if not _is_lost(services, job, error):
            raise
        return False
    if meta["uid"] == job.uid and "deletionTimestamp" not in meta:
        return True
    services.mirror.drop_job(job.key, job.uid)  # a namesake's event brings that one
    return False


def _is_lost(services: Services, job: Job, error: ApiError) -> bool:
    """Whether the server does not find the job, which is forgotten then.

    The event of its deletion may be seconds away, and those of its last changes come before it.
    """
    is_named = f'"{job.key.name}"' in error.message
    if not (error.is_missing and error.reason == "NotFound" and is_named):
        return False
    services.mirror.drop_job(job.key, job.uid)
    return True


async def _apply(
    services: Services, job: Job, state: JobState, verdict: Verdict, steps: Steps
) -> tuple[ApiError | None, bool]:
    """Carry the steps out at once; the first refusal, once all have been tried.

    And whether a pod was there already: what it has done since is no news to the mirror any more.
    Pods that could not start without a Secret or a Service are not created before these are there.
    """
    refused = await _ensure_children(services, job, state) if verdict.wish.coordinator else None
    create = () if refused else steps.create
    results = await asyncio.gather(
        *(create_pod(services, job, slot) for slot in create),
        *(delete_pod(services, pod) for pod in steps.delete),
        return_exceptions=True,
    )
    refusals = [r for r in (refused, *results) if isinstance(r, ApiError)]
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, ApiError):
            raise result
    return refusals[0] if refusals else None, any(result is True for result in results)


async def _ensure_children(services: Services, job: Job, state: JobState) -> ApiError | None:
    try:
        await ensure_children(services, job, state)
    except ApiError as refusal:
        return refusal
    return None


async def _report(
    services: Services, job: Job, state: JobState, verdict: Verdict, now: datetime
) -> datetime | None:
    """Write the status if it says anything new, then tell the news; when it is due if not yet."""
    roster = sort_pods(services.mirror.pods_of(job.key), job.uid)
    found = Findings(
        verdict=verdict,
        roster=roster,
        scaling=state.scaling,
        report=state.report,
        term=roster.term,
        plan_generation=state.plan_generation,
        now=now,
    )
    status = status_of(job, found)
    if status == job.status:
        return None
    due_at = _due_at(services, job, state, status, now)
    if now < due_at:
        return due_at
    try:
        written = await _write(services, job, status)
    except ApiError as error:
        if _is_lost(services, job, error):
            return now
        if error.is_conflict:
            return now + CONFLICT_PAUSE  # it has changed meanwhile, and so we look again
        raise
    state.reported_at = now
    services.mirror.put_job(written, only_known=True)
    _count_failures(services, job, status)
    news, state.news = [*state.news, *notices(job.status, status)], []
    for notice in news:
        await _tell(services, job, event(job, notice, format_time(now), services.options.identity))
    return None


def _count_failures(services: Services, job: Job, status: Status) -> None:
    known = {f.uid for f in job.status.failures}
    for failure in status.failures:
        if failure.uid not in known:
            is_coordinator = failure.pod.startswith(f"{names.service_name(job.key.name)}-")
            member = Role.PARTY if job.key.kind == names.FEDERATED_JOB else Role.WORKER
            role = Role.COORDINATOR if is_coordinator else member
            services.metrics.failures.labels(role).inc()


def _due_at(
    services: Services,
    job: Job,
    state: JobState,
    status: Status,
    now: datetime,
) -> datetime:
    """When the status may be written: at once, unless only figures or sentences differ."""
    if is_urgent(job.status, status) or state.reported_at is None:
        return now
    limits = services.options.limits
    pause = limits.metrics_every if state.report is not None else limits.messages_every
    return state.reported_at + pause * 0.9


async def _write(services: Services, job: Job, status: Status) -> Job:
    body: dict[str, Any] = {
        "apiVersion": names.API_VERSION,
        "kind": job.key.kind,
        "metadata": {
            "name": job.key.name,
            "namespace": job.key.namespace,
            # A namesake of a deleted job, and what somebody wrote since we looked, are conflicts.
            "uid": job.uid,
            "resourceVersion": str(job.resource_version),
        },
        "status": msgspec.to_builtins(status),
    }
    answer = await services.client.apply(f"{job_path(job)}/status", body, lane=Lane.STATUS)
    return parse_job(answer)


async def _tell(services: Services, job: Job, manifest: dict[str, Any]) -> None:
    """Events are a courtesy: a refused one is logged, never retried."""
    path = collection("v1", "events", job.key.namespace)
    try:
        await services.client.create(path, manifest)
    except ApiError as error:
        if not error.is_conflict:
            log.info("an event of %s was refused: %s", job.key, error)


def _needs_contact(state: JobState, roster: Roster) -> bool:
    coordinator = roster.coordinator
    if state.plan is None or coordinator is None or not coordinator.is_running:
        return False
    if state.read_from == coordinator.uid and state.report and state.report.is_mismatched:
        return False  # it could misread the Plan
    return (coordinator.uid, state.plan.generation) not in (state.acknowledged, state.attempted)


def _seconds_until(now: datetime, *moments: datetime | None) -> float | None:
    first = earliest(*moments)
    return None if first is None else max((first - now).total_seconds(), 0.0)
