"""The exchange with one coordinator: its metrics come in, its Plan goes out, again and again.

In a queue of its own, so that a coordinator that does not answer delays no reconcile.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from trainyard.api.jobs import Job
from trainyard.api.names import Key
from trainyard.api.pods import Pod
from trainyard.api.podset import JobPods, group_pods
from trainyard.api.report import Contact
from trainyard.cluster.coordinator import (
    Address,
    PeerIdentityError,
    PlanRefusedError,
    StalePlanError,
    UnreachableError,
    address_of,
)
from trainyard.lifecycle.reachability import answered, failed, is_overdue
from trainyard.reconcile.dependencies import Dependencies
from trainyard.reconcile.state import CoordinatorLink, JobState, PlanDelivery
from trainyard.render.trainer_config import AnyPlan

log = logging.getLogger(__name__)

FIRST_RETRY_SECONDS = 0.25
"""A coordinator's process listens a moment after its pod runs."""
PEER_IDENTITY_RETRY_SECONDS = 15.0
"""Another's certificate does not become the coordinator's within a moment, and TLS is costly."""
MAX_RETRY_SECONDS = 30.0
PAUSE_PER_SCRAPE = 5
"""A scrape is followed by a pause of at least this many times its duration: a slow coordinator
occupies a worker for a sixth of the time."""


def _ignore(_: Key) -> None:
    pass


async def exchange(
    deps: Dependencies,
    key: Key,
    on_report: Callable[[Key], None],
    on_overdue: Callable[[Key], None] = _ignore,
) -> float | None:
    """Read the metrics, and send the Plan unless it is acknowledged; requeue after seconds.

    `on_report` is called once a new report is recorded, `on_overdue` each time that a coordinator
    has not answered for longer than its condition allows.
    """
    job, state = deps.cache.jobs.get(key), deps.job_states.get(key)
    if job is None or state is None or job.is_deleting or job.is_finished:
        await deps.coordinators.forget_job(key)
        return None
    pods = group_pods(deps.cache.pods_of(key), job.uid)
    pod = pods.coordinator
    if pod is None or not pod.is_running:
        await deps.coordinators.forget_job(key)
        return None  # its next event starts the exchange again
    link, started = state.coordinator, asyncio.get_running_loop().time()
    if _is_first_attempt(link, pod, deps.clock()) and not deps.coordinators.is_open(pod.uid):
        return FIRST_RETRY_SECONDS
    try:
        address = address_of(key, pod, deps.options.cluster_domain)
        tls = await _tls(deps, job, address)
        await _read(deps, state, pods, address, tls)
    except UnreachableError as error:
        link.contact = failed(link.contact, deps.clock())
        if is_overdue(link.contact, deps.options.timeouts, deps.clock()):
            on_overdue(key)
        return max(_failed(deps, key, link, error), _least_pause(started))
    pause = max(deps.scrape_interval.total_seconds(), _least_pause(started))
    try:
        await _send_if_due(deps, link, address, tls)
    except UnreachableError as error:
        return _failed(deps, key, link, error)
    finally:
        on_report(key)
    link.failures = 0
    deps.metrics.scrapes.labels("ok").inc()
    # Jitter spreads the scrapes of jobs that started together.
    return pause * random.uniform(0.9, 1.0)  # noqa: S311


def _least_pause(started: float) -> float:
    return (asyncio.get_running_loop().time() - started) * PAUSE_PER_SCRAPE


def _is_first_attempt(link: CoordinatorLink, pod: Pod, now: datetime) -> bool:
    """Whether this coordinator just started; from here on this queue decides when to retry."""
    is_new = link.attempted.pod_uid != pod.uid
    if is_new:
        link.failures = 0
        link.contact = Contact(pod_uid=pod.uid, failing_since=now)
    link.attempted = PlanDelivery(pod.uid, link.plan.generation if link.plan else 0)
    return is_new


def _failed(deps: Dependencies, key: Key, link: CoordinatorLink, error: UnreachableError) -> float:
    """Count a failed exchange; returns the seconds until the next one."""
    deps.metrics.scrapes.labels("failed").inc()
    link.failures += 1
    log.debug("%s: no answer (%d in a row): %s", key, link.failures, error)
    is_other = isinstance(error, PeerIdentityError)
    first = PEER_IDENTITY_RETRY_SECONDS if is_other else FIRST_RETRY_SECONDS
    backoff: float = first * 2 ** min(link.failures - 1, 10)
    return min(backoff, MAX_RETRY_SECONDS)


async def _read(
    deps: Dependencies,
    state: JobState,
    pods: JobPods,
    address: Address,
    tls: ssl.SSLContext | None,
) -> None:
    """Read the metrics, and record them in the profile before anybody decides on it."""
    report = await deps.coordinators.scrape(address, tls, deps.clock())
    link = state.coordinator
    link.report, link.reported_by = report, address.pod.uid
    link.contact = answered(link.contact, report, pods)
    state.assignment.record_report(report)


async def _send_if_due(
    deps: Dependencies, link: CoordinatorLink, address: Address, tls: ssl.SSLContext | None
) -> None:
    """Send the Plan unless it is acknowledged, or the coordinator could misread it."""
    plan = link.plan
    if plan is None or link.acknowledged == (address.pod.uid, plan.generation):
        return
    if link.report and link.report.is_mismatched:
        return
    refusal = ""
    try:
        await _send(deps, link, address, tls, plan)
    except (PlanRefusedError, StalePlanError) as error:
        refusal = str(error) or "without a reason"
    link.contact = replace(link.contact, refusal=refusal)


async def _tls(deps: Dependencies, job: Job, address: Address) -> ssl.SSLContext | None:
    """A context with a fresh certificate; None where the connection is open already."""
    if deps.coordinators.is_open(address.pod.uid):
        return None
    await deps.coordinators.probe(address)
    return await deps.authorities.operator_context(job.key, job.uid, deps.clock())


async def _send(
    deps: Dependencies,
    link: CoordinatorLink,
    address: Address,
    tls: ssl.SSLContext | None,
    plan: AnyPlan,
) -> None:
    plan = replace(plan, fencing_token=max(deps.fencing_token, link.fencing_token))
    try:
        await deps.coordinators.put_plan(address, tls, plan)
    except StalePlanError as stale:
        if stale.fencing_token > plan.fencing_token:
            await _confirm_leadership(deps, link, stale)
        # An earlier operator sent Plans that its last status does not count: continue after them.
        fencing_token = max(plan.fencing_token, link.fencing_token)
        plan = replace(plan, generation=stale.generation + 1, fencing_token=fencing_token)
        await deps.coordinators.put_plan(address, tls, plan)
        link.plan, link.plan_generation = plan, plan.generation
    link.acknowledged = PlanDelivery(address.pod.uid, plan.generation)


async def _confirm_leadership(
    deps: Dependencies, link: CoordinatorLink, stale: StalePlanError
) -> None:
    """Check the Lease when a coordinator reports that it follows a later operator.

    A coordinator is not trusted on its own: its image may run arbitrary code. Raises
    LeadershipLost when the Lease is another's.
    """
    if deps.election is not None:
        await deps.election.confirm()
    link.fencing_token = stale.fencing_token
