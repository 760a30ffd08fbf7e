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
from trainyard.api.podset import JobPods, group_pods
from trainyard.cluster.client import ApiError, collection
from trainyard.cluster.throttle import Priority
from trainyard.lifecycle.conditions import with_refusal
from trainyard.lifecycle.desired import DesiredState, earliest
from trainyard.lifecycle.diff import PodActions, pod_actions
from trainyard.lifecycle.observation import Observation
from trainyard.lifecycle.stages import evaluate
from trainyard.lifecycle.status import StatusInputs, is_urgent, status_of
from trainyard.reconcile.children import (
    create_pod,
    delete_job,
    delete_pod,
    ensure_children,
    job_path,
)
from trainyard.reconcile.dependencies import Dependencies
from trainyard.reconcile.state import JobState
from trainyard.render.events import event, events_for
from trainyard.render.trainer_config import AnyPlan, numbered, plan_of
from trainyard.scheduling.assignment import apply_report, back_off, initial_assignment, release
from trainyard.scheduling.conversion import wants_gpus
from trainyard_trainer.contract.env import Role

log = logging.getLogger(__name__)

CONFLICT_PAUSE = timedelta(seconds=1)
"""The event of what somebody else has written comes sooner, unless the watch is broken."""


class ReconcileResult(msgspec.Struct, frozen=True, kw_only=True):
    """What the controller does after a reconcile."""

    requeue_after: float | None = None
    schedule: bool = False
    """GPUs were released or are wanted: the scheduler should look."""
    exchange: bool = False
    """The coordinator should be talked to now."""
    refusal: ApiError | None = None
    """What the API server refused; the rest was done all the same."""


async def reconcile(services: Dependencies, key: Key) -> ReconcileResult:
    """Bring one job a step closer to what is wanted of it."""
    job = services.cache.jobs.get(key)
    if job is None or job.is_deleting:
        return await _forget(services, key, job)
    if not job.is_ours:
        return ReconcileResult()
    state = job_state(services, job)
    if not state.scaling.reason and not state.scaling.desired and wants_gpus(job):
        return ReconcileResult(schedule=True)  # nothing decided yet: the scheduler comes first
    roster = group_pods(services.cache.pods_of(key), job.uid)
    now = services.clock()
    verdict = evaluate(_observe(services, job, state, roster, now))
    if verdict.delete_job:
        await delete_job(services, job)
        return ReconcileResult()
    was_holding, state.has_ended = state.scaling.desired, verdict.completed
    _settle_scaling(state, verdict, services, now)
    state.plan = _wanted_plan(job, state, verdict)
    steps = _steps(job, roster, verdict, now)
    if _replaces(steps) and not await _is_there(services, job):
        return ReconcileResult(requeue_after=0)
    refusal, is_behind = await _apply(services, job, state, verdict, steps)
    if refusal is not None:
        verdict = with_refusal(verdict, refusal.message)
    due_at = await _report(services, job, state, verdict, now)
    children_at = state.children_until if verdict.pods.coordinator else None
    return ReconcileResult(
        requeue_after=0
        if is_behind
        else _seconds_until(now, verdict.requeue_at, steps.requeue_at, due_at, children_at),
        schedule=was_holding != state.scaling.desired,
        exchange=_needs_exchange(state, roster),
        refusal=refusal,
    )


def job_state(services: Dependencies, job: Job) -> JobState:
    """What this process knows of the job; begun from its status and its pods."""
    state = services.states.jobs.get(job.key)
    if state is None or state.uid != job.uid:
        pods = services.cache.pods_of(job.key)
        state = JobState(
            uid=job.uid,
            scaling=initial_assignment(job, pods),
            plan_generation=job.status.plan_generation,
        )
        services.states.jobs[job.key] = state
    return state


async def _forget(services: Dependencies, key: Key, job: Job | None) -> ReconcileResult:
    """A job that is gone leaves one thing behind that Kubernetes does not collect."""
    if job is not None:
        return (
            ReconcileResult()
        )  # its owner references do the rest; the deletion's event comes back here
    state = services.states.jobs.pop(key, None)
    if state is not None:
        await services.authorities.delete(state.uid)
    return ReconcileResult(schedule=True)


def _observe(
    services: Dependencies, job: Job, state: JobState, roster: JobPods, now: datetime
) -> Observation:
    return Observation.at(job, roster, state.scaling, state.report, services.options.timeouts, now)


def _settle_scaling(
    state: JobState, verdict: DesiredState, services: Dependencies, now: datetime
) -> None:
    if verdict.refuse_start:
        delay = services.options.timeouts.start_backoff
        state.scaling = back_off(state.scaling, delay, verdict.release, now)
        # What its pods waited for may be a Secret that somebody deleted.
        state.children_until = state.children_until and now
    elif verdict.release and (state.scaling.desired or not state.scaling.reason):
        state.scaling = release(state.scaling, verdict.phase, verdict.release)
    if state.report is not None:
        state.scaling = apply_report(state.scaling, state.report)


def _wanted_plan(job: Job, state: JobState, verdict: DesiredState) -> AnyPlan | None:
    """The Plan for the coordinator; a change of content raises the generation."""
    old = state.plan
    wanted = plan_of(job, verdict, old)
    if wanted is None or wanted == old:
        return wanted
    generation = max(state.plan_generation, state.acknowledged[1], old.generation if old else 0) + 1
    state.plan_generation = generation
    return numbered(wanted, generation)


def _steps(job: Job, roster: JobPods, verdict: DesiredState, now: datetime) -> PodActions:
    recorded = frozenset(f.uid for f in job.status.failures)
    return pod_actions(verdict.pods, roster, recorded, job.status.term, now)


def _replaces(steps: PodActions) -> bool:
    return any(slot.attempt > 1 for slot in steps.create)


async def _is_there(services: Dependencies, job: Job) -> bool:
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
    services.cache.drop_job(job.key, job.uid)  # a namesake's event brings that one
    return False


def _is_lost(services: Dependencies, job: Job, error: ApiError) -> bool:
    """Whether the server does not find the job, which is forgotten then.

    The event of its deletion may be seconds away, and those of its last changes come before it.
    """
    is_named = f'"{job.key.name}"' in error.message
    if not (error.is_missing and error.reason == "NotFound" and is_named):
        return False
    services.cache.drop_job(job.key, job.uid)
    return True


async def _apply(
    services: Dependencies, job: Job, state: JobState, verdict: DesiredState, steps: PodActions
) -> tuple[ApiError | None, bool]:
    """Carry the steps out at once; the first refusal, once all have been tried.

    And whether a pod was there already: what it has done since is no news to the mirror any more.
    Pods that could not start without a Secret or a Service are not created before these are there.
    """
    refused = await _ensure_children(services, job, state) if verdict.pods.coordinator else None
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


async def _ensure_children(services: Dependencies, job: Job, state: JobState) -> ApiError | None:
    try:
        await ensure_children(services, job, state)
    except ApiError as refusal:
        return refusal
    return None


async def _report(
    services: Dependencies, job: Job, state: JobState, verdict: DesiredState, now: datetime
) -> datetime | None:
    """Write the status if it says anything new, then tell the news; when it is due if not yet."""
    roster = group_pods(services.cache.pods_of(job.key), job.uid)
    found = StatusInputs(
        desired=verdict,
        pods=roster,
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
    services.cache.put_job(written, only_known=True)
    _count_failures(services, job, status)
    news, state.pending_events = [*state.pending_events, *events_for(job.status, status)], []
    for notice in news:
        await _record_events(
            services, job, event(job, notice, format_time(now), services.options.identity)
        )
    return None


def _count_failures(services: Dependencies, job: Job, status: Status) -> None:
    known = {f.uid for f in job.status.failures}
    for failure in status.failures:
        if failure.uid not in known:
            is_coordinator = failure.pod.startswith(f"{names.service_name(job.key.name)}-")
            member = Role.PARTY if job.key.kind == names.FEDERATED_JOB else Role.WORKER
            role = Role.COORDINATOR if is_coordinator else member
            services.metrics.failures.labels(role).inc()


def _due_at(
    services: Dependencies,
    job: Job,
    state: JobState,
    status: Status,
    now: datetime,
) -> datetime:
    """When the status may be written: at once, unless only figures or sentences differ."""
    if is_urgent(job.status, status) or state.reported_at is None:
        return now
    limits = services.options.timeouts
    pause = limits.metrics_interval if state.report is not None else limits.messages_interval
    return state.reported_at + pause * 0.9


async def _write(services: Dependencies, job: Job, status: Status) -> Job:
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
    answer = await services.client.apply(f"{job_path(job)}/status", body, lane=Priority.STATUS)
    return parse_job(answer)


async def _record_events(services: Dependencies, job: Job, manifest: dict[str, Any]) -> None:
    """Events are a courtesy: a refused one is logged, never retried."""
    path = collection("v1", "events", job.key.namespace)
    try:
        await services.client.create(path, manifest)
    except ApiError as error:
        if not error.is_conflict:
            log.info("an event of %s was refused: %s", job.key, error)


def _needs_exchange(state: JobState, roster: JobPods) -> bool:
    coordinator = roster.coordinator
    if state.plan is None or coordinator is None or not coordinator.is_running:
        return False
    if state.read_from == coordinator.uid and state.report and state.report.is_mismatched:
        return False  # it could misread the Plan
    return (coordinator.uid, state.plan.generation) not in (state.acknowledged, state.attempted)


def _seconds_until(now: datetime, *moments: datetime | None) -> float | None:
    first = earliest(*moments)
    return None if first is None else max((first - now).total_seconds(), 0.0)
