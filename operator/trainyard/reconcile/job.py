"""The reconcile of one job of either kind: observe → decide → render → plan → apply → report.

What differs between the kinds is in the packages below: what a job should have (`lifecycle`), and
what it is made of (`render`).

Idempotent and level-triggered: it depends on what is observed, never on what happened, and reaches
the same state from any starting point.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import NamedTuple

import msgspec

from trainyard.api.jobs import Job
from trainyard.api.names import Key
from trainyard.api.podset import JobPods, group_pods, subdomain_of
from trainyard.api.validation import Rejection
from trainyard.cluster.errors import ApiError
from trainyard.lifecycle.conditions import with_refusal, with_scheduling_failure
from trainyard.lifecycle.desired import DesiredState, earliest
from trainyard.lifecycle.diff import PodActions, pod_actions
from trainyard.lifecycle.observation import Observation
from trainyard.lifecycle.recorded import recorded_uids
from trainyard.lifecycle.stages import evaluate
from trainyard.reconcile.children import create_pod, delete_pod, ensure_children
from trainyard.reconcile.dependencies import Dependencies
from trainyard.reconcile.namesakes import name_taken
from trainyard.reconcile.orphans import report_orphans
from trainyard.reconcile.pod_events import refresh_warnings
from trainyard.reconcile.resource import delete_job, exists
from trainyard.reconcile.slowstart import Requests
from trainyard.reconcile.state import CoordinatorLink, JobState
from trainyard.reconcile.status import write_rejection, write_status
from trainyard.render.network import Network
from trainyard.render.trainer_config import plan_of
from trainyard.scheduling.conversion import wants_gpus

CLOCK_RETRY = timedelta(seconds=10)
"""Pause until a job is reconciled again while this clock and the API server's differ."""


class ReconcileResult(msgspec.Struct, frozen=True, kw_only=True):
    """What the controller does after a reconcile."""

    requeue_after: float | None = None
    """Seconds after which to reconcile again if no event comes first; None for never."""
    schedule: bool = False
    """Resources were released or are wanted: the scheduler should run."""
    exchange: bool = False
    """The coordinator has not been sent its Plan yet."""
    refusal: ApiError | None = None
    """What the API server has just refused."""


async def reconcile(deps: Dependencies, key: Key) -> ReconcileResult:
    """Bring the pods and the status of one job closer to its desired state."""
    job = deps.cache.jobs.get(key)
    if job is None:
        return await _clean_up(deps, key)
    if job.is_deleting or not job.is_ours:
        return ReconcileResult()  # the pods of a deleted job go by their owner references
    job = replace(job, default_image=deps.options.trainer_image)
    state, now = deps.job_state(job), deps.clock()
    if job.is_unread and job.rejection is not None:
        due_at = await write_rejection(deps, job, state, job.rejection, now)
        return ReconcileResult(requeue_after=_seconds_until(now, due_at))
    before = state.assignment.value
    taken = name_taken(deps, job)
    is_unscheduled = not before.reason and not before.desired and wants_gpus(job) and not taken
    if is_unscheduled and not state.scheduling_failure:
        return ReconcileResult(schedule=True)

    # 1. Observe the job, its pods and the last report.
    pods = group_pods(state.pod_events.explain(deps.cache.pods_of(key)), job.uid)
    observation = _observe(deps, job, state, pods, now, taken)

    # 2. Decide what the job should have.
    desired = evaluate(observation)
    if desired.delete_job:
        await delete_job(deps, job)
        return ReconcileResult()
    _record_desired(deps, key, state, desired, now)

    # 3. Render the coordinator's Plan; pods are rendered as they are created.
    state.coordinator.set_plan(plan_of(job, desired, state.coordinator.plan))

    # 4. Plan which pods to create and delete.
    actions = _actions(job, pods, desired, now)
    if _has_replacement(actions) and not await exists(deps, job):
        return ReconcileResult(requeue_after=0)

    # 5. Apply, as far as the API server allows.
    network = _network(deps, job)
    applied = await _apply(deps, job, state, desired, actions, network)
    refused = state.refusals.latest
    error = refused.error if refused else None
    if error is not None:
        desired = with_refusal(desired, error.message)
    elif state.scheduling_failure and not desired.completed:
        desired = with_scheduling_failure(desired, state.scheduling_failure)

    # 6. Report in the status.
    status_due_at = await write_status(deps, job, state, desired, now)
    adopted_at = now if applied.adopted else None
    children_at = _children_at(deps, job, state, network) if desired.pods.coordinator else None
    events_at = await refresh_warnings(deps, job, state.pod_events, now)
    blocked_at = _blocked_deadline(deps, state, now)
    retry_at = refused.retry_at if refused else None
    deadline = _kept_back(deps, desired.requeue_at, now)
    requeue_at = (deadline, actions.requeue_at, adopted_at, status_due_at, children_at, retry_at)
    return ReconcileResult(
        requeue_after=_seconds_until(now, *requeue_at, events_at, blocked_at),
        schedule=before.desired != state.assignment.value.desired,
        exchange=_needs_exchange(state.coordinator, pods),
        refusal=applied.refusal,
    )


async def _clean_up(deps: Dependencies, key: Key) -> ReconcileResult:
    """Forget a removed job; Kubernetes collects its children, but for a stored authority."""
    if not any(other.namespace == key.namespace for other in deps.cache.jobs):
        deps.services.forget(key.namespace)  # it may be deleted and created again, without ours
    state = deps.job_states.pop(key, None)
    if state is not None:
        deps.authorities.forget(state.uid)
        await deps.authorities.stored.delete(state.uid)
    await report_orphans(deps, key)
    return ReconcileResult(schedule=True)


def _observe(
    deps: Dependencies,
    job: Job,
    state: JobState,
    pods: JobPods,
    now: datetime,
    taken: Rejection | None,
) -> Observation:
    assignment, report = state.assignment.value, state.coordinator.report
    timeouts, link = deps.options.timeouts, state.coordinator
    return Observation.of(
        job,
        pods,
        assignment,
        report,
        timeouts,
        now,
        link.contact,
        is_clock_trusted=deps.is_clock_trusted,
        refusal=state.refusals.of_pods,
        deleted=state.deleted_pods,
        name_taken=taken,
    )


def _record_desired(
    deps: Dependencies, key: Key, state: JobState, desired: DesiredState, now: datetime
) -> None:
    """Record the end of the job, and release the resources that it should not have."""
    state.has_ended = desired.completed
    if desired.refuse_start:
        state.assignment.back_off(deps.options.timeouts, desired.release, now)
        # Its pods may have waited for a Secret or a Service that somebody deleted.
        state.children.expire(now)
        deps.services.forget(key.namespace)
    elif desired.release:
        state.assignment.release(desired.phase, desired.release)
    elif desired.trains:
        state.assignment.forget_failed_starts()


def _network(deps: Dependencies, job: Job) -> Network:
    """The names by which the job's pods find each other, and by which new ones have to.

    They outlast the option: members resolve the name that they were created with.
    """
    subdomain, options = subdomain_of(deps.cache.pods_of(job.key), job.uid), deps.options
    service = options.service_name if subdomain is None else subdomain
    return Network(service=service, cluster_domain=options.cluster_domain)


def _children_at(
    deps: Dependencies, job: Job, state: JobState, network: Network
) -> datetime | None:
    """When Secrets or Service must be ensured again."""
    service_at = deps.services.valid_until(job.key.namespace, network.service)
    return earliest(state.children.valid_until, service_at)


def _actions(job: Job, pods: JobPods, desired: DesiredState, now: datetime) -> PodActions:
    recorded = recorded_uids(job.status, pods)
    return pod_actions(desired.pods, pods, recorded, job.status.term, now)


def _has_replacement(actions: PodActions) -> bool:
    return any(pod.attempt > 1 for pod in actions.create)


class _Applied(NamedTuple):
    refusal: ApiError | None
    """The first of several new refusals."""
    adopted: bool
    """A pod existed already: its latest event may be older than what was read of it."""


async def _apply(
    deps: Dependencies,
    job: Job,
    state: JobState,
    desired: DesiredState,
    actions: PodActions,
    network: Network,
) -> _Applied:
    """Apply the actions as far as the API server allows; what it refuses pauses, kind by kind.

    Pods cannot start without their Secret and Service, and are not created before these.
    """
    refusals, generation, now = state.refusals, job.generation, deps.clock()
    needed = _children(deps, job, state, network) if desired.pods.coordinator else {}
    children = await refusals.children.attempt(needed, generation, now)
    create = () if refusals.children.error else actions.create
    _record_deleted(deps, job, state, actions)
    creations, deletions = await asyncio.gather(
        refusals.creations.attempt(
            {(p.role, p.member): partial(create_pod, deps, job, p, network) for p in create},
            generation,
            now,
        ),
        refusals.deletions.attempt(
            {p.uid: partial(delete_pod, deps, job, p) for p in actions.delete}, generation, now
        ),
    )
    return _Applied(
        refusal=children.refusal or creations.refusal or deletions.refusal,
        adopted=any(result is True for result in creations.results),
    )


def _children(deps: Dependencies, job: Job, state: JobState, network: Network) -> Requests:
    requests: Requests = {"Secret": partial(ensure_children, deps, job, state.children, network)}
    if not network.service:
        return requests
    ensure_service = partial(deps.services.ensure, job.key.namespace, network.service)
    return {**requests, "Service": ensure_service}


def _record_deleted(deps: Dependencies, job: Job, state: JobState, actions: PodActions) -> None:
    """Record which pods are deleted now, and forget those that are gone."""
    present = {pod.uid for pod in deps.cache.pods_of(job.key)}
    deleted = (pod.uid for pod in actions.delete if not pod.is_finished)
    state.deleted_pods = state.deleted_pods.union(deleted) & present


def _blocked_deadline(deps: Dependencies, state: JobState, now: datetime) -> datetime | None:
    """When a start fails by a refusal that this reconcile was the first to meet."""
    refusal = state.refusals.of_pods
    if refusal is None:
        return None
    deadline = refusal.since + deps.options.timeouts.blocked_start_timeout
    return deadline if deadline > now else None


def _kept_back(deps: Dependencies, deadline: datetime | None, now: datetime) -> datetime | None:
    """The deadline, but not one that is past and not enforced, which would requeue in a loop."""
    if deps.is_clock_trusted or (deadline is not None and deadline > now):
        return deadline
    return now + CLOCK_RETRY


def _seconds_until(now: datetime, *times: datetime | None) -> float | None:
    first = earliest(*times)
    return None if first is None else max((first - now).total_seconds(), 0.0)


def _needs_exchange(link: CoordinatorLink, pods: JobPods) -> bool:
    coordinator = pods.coordinator
    if link.plan is None or coordinator is None or not coordinator.is_running:
        return False
    if link.reported_by == coordinator.uid and link.report and link.report.is_mismatched:
        return False  # it could misread the Plan
    return (coordinator.uid, link.plan.generation) not in (link.acknowledged, link.attempted)
