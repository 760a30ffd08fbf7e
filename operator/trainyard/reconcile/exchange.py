"""The exchange with one coordinator: its Plan goes out, its metrics come in, again and again.

In a queue of its own, so that a coordinator that does not answer delays no reconcile.
"""

from __future__ import annotations

import logging
import random
import ssl
from collections.abc import Callable
from dataclasses import replace

from trainyard.api.jobs import Job
from trainyard.api.names import Key
from trainyard.api.pods import Pod
from trainyard.api.podset import group_pods
from trainyard.cluster.coordinator import (
    Address,
    PeerIdentityError,
    StalePlanError,
    UnreachableError,
    address_of,
)
from trainyard.reconcile.dependencies import Dependencies
from trainyard.reconcile.state import CoordinatorLink, JobState, PlanDelivery
from trainyard.render.trainer_config import AnyPlan

log = logging.getLogger(__name__)

FIRST_RETRY_SECONDS = 0.25
"""A coordinator's process listens a moment after its pod runs."""
PEER_IDENTITY_RETRY_SECONDS = 15.0
"""Another's certificate does not become the coordinator's within a moment, and TLS is costly."""
MAX_RETRY_SECONDS = 30.0


async def exchange(deps: Dependencies, key: Key, on_report: Callable[[Key], None]) -> float | None:
    """Send the Plan unless it is acknowledged, and read the metrics; requeue after seconds.

    `on_report` is called once a new report is recorded.
    """
    job, state = deps.cache.jobs.get(key), deps.job_states.get(key)
    if job is None or state is None or job.is_deleting or job.is_finished:
        return None
    pod = group_pods(deps.cache.pods_of(key), job.uid).coordinator
    if pod is None or not pod.is_running:
        return None  # its next event starts the exchange again
    if _is_first_attempt(state.coordinator, pod) and not deps.coordinators.is_open(pod.uid):
        return FIRST_RETRY_SECONDS
    try:
        await _send_and_read(deps, job, state, pod)
    except UnreachableError as error:
        deps.metrics.scrapes.labels("failed").inc()
        return _backoff(key, state.coordinator, error)
    state.coordinator.failures = 0
    deps.metrics.scrapes.labels("ok").inc()
    on_report(key)
    # Jitter spreads the scrapes of jobs that started together.
    return deps.options.scrape_interval.total_seconds() * random.uniform(0.9, 1.0)  # noqa: S311


def _is_first_attempt(link: CoordinatorLink, pod: Pod) -> bool:
    """Whether this coordinator just started; from here on this queue decides when to retry."""
    is_new = link.attempted.pod_uid != pod.uid
    if is_new:
        link.failures = 0
    link.attempted = PlanDelivery(pod.uid, link.plan.generation if link.plan else 0)
    return is_new


def _backoff(key: Key, link: CoordinatorLink, error: UnreachableError) -> float:
    link.failures += 1
    log.debug("%s: no answer (%d in a row): %s", key, link.failures, error)
    is_other = isinstance(error, PeerIdentityError)
    first = PEER_IDENTITY_RETRY_SECONDS if is_other else FIRST_RETRY_SECONDS
    backoff: float = first * 2 ** min(link.failures - 1, 10)
    return min(backoff, MAX_RETRY_SECONDS)


async def _send_and_read(deps: Dependencies, job: Job, state: JobState, pod: Pod) -> None:
    link, address = state.coordinator, address_of(job.key, pod, deps.options.cluster_domain)
    tls = await _tls(deps, job, address)
    is_known = link.reported_by == pod.uid
    if not is_known:
        await _read(deps, state, address, tls)  # its wire version decides whether it gets a Plan
    plan = link.plan
    is_due = plan is not None and link.acknowledged != (pod.uid, plan.generation)
    if plan is not None and is_due and not (link.report and link.report.is_mismatched):
        await _send(deps, link, address, tls, plan)
    if is_known:
        await _read(deps, state, address, tls)


async def _read(
    deps: Dependencies, state: JobState, address: Address, tls: ssl.SSLContext | None
) -> None:
    """Read the metrics, and record them in the profile before anybody decides on it."""
    report = await deps.coordinators.scrape(address, tls, deps.clock())
    state.coordinator.report, state.coordinator.reported_by = report, address.pod.uid
    state.assignment.record_report(report)


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
