"""Talking to one coordinator: its Plan goes out, its metrics come in, again and again.

In a queue of its own, so that a coordinator that does not answer delays nobody's reconcile.
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
from trainyard.reconcile.state import JobState
from trainyard.render.trainer_config import AnyPlan

log = logging.getLogger(__name__)

FIRST_RETRY_SECONDS = 0.25
"""A coordinator's process listens a moment after its pod runs."""
PEER_IDENTITY_RETRY_SECONDS = 15.0
"""Another's certificate does not become the coordinator's within a moment, and TLS is costly."""
RETRY_CAP_SECONDS = 30.0


async def exchange(
    services: Dependencies, key: Key, on_report: Callable[[Key], None]
) -> float | None:
    """Send the Plan if it is not taken yet, read the metrics; the seconds until the next time.

    `told` is called when there is something new to act on.
    """
    job, state = services.cache.jobs.get(key), services.states.jobs.get(key)
    if job is None or state is None or job.is_deleting or job.is_finished:
        return None
    pod = group_pods(services.cache.pods_of(key), job.uid).coordinator
    if pod is None or not pod.is_running:
        return None  # its next event starts this again
    if _is_first_sight(state, pod) and not services.coordinators.is_open(pod.uid):
        return FIRST_RETRY_SECONDS
    try:
        await _talk(services, job, state, pod)
    except UnreachableError as error:
        state.exchange_failures += 1
        services.metrics.scrapes.labels("failed").inc()
        log.debug("%s: no answer (%d in a row): %s", key, state.exchange_failures, error)
        first = (
            PEER_IDENTITY_RETRY_SECONDS
            if isinstance(error, PeerIdentityError)
            else FIRST_RETRY_SECONDS
        )
        pause: float = first * 2 ** min(state.exchange_failures - 1, 10)
        return min(pause, RETRY_CAP_SECONDS)
    state.exchange_failures = 0
    services.metrics.scrapes.labels("ok").inc()
    on_report(key)
    # Jitter spreads the scrapes of jobs that started together.
    return services.options.scrape_interval.total_seconds() * random.uniform(0.9, 1.0)  # noqa: S311


def _is_first_sight(state: JobState, pod: Pod) -> bool:
    """Whether the coordinator has just begun to run; from here on this queue says when to try."""
    is_new = state.attempted[0] != pod.uid
    if is_new:
        state.exchange_failures = 0
    state.attempted = (pod.uid, state.plan.generation if state.plan else 0)
    return is_new


async def _talk(services: Dependencies, job: Job, state: JobState, pod: Pod) -> None:
    address = address_of(job.key, pod, services.options.cluster_domain)
    tls = await _tls(services, job, address)
    is_known = state.read_from == pod.uid
    if not is_known:
        await _read(services, state, address, tls)  # a Plan goes only to who understands it
    plan = state.plan
    is_due = plan is not None and state.acknowledged != (pod.uid, plan.generation)
    if plan is not None and is_due and not (state.report and state.report.is_mismatched):
        await _send(services, state, address, tls, plan)
    if is_known:
        await _read(services, state, address, tls)


async def _read(
    services: Dependencies, state: JobState, address: Address, tls: ssl.SSLContext | None
) -> None:
    state.report = await services.coordinators.scrape(address, tls, services.clock())
    state.read_from = address.pod.uid


async def _tls(services: Dependencies, job: Job, address: Address) -> ssl.SSLContext | None:
    """A context with a fresh certificate, unless the connection stands already."""
    if services.coordinators.is_open(address.pod.uid):
        return None
    await services.coordinators.probe(address)
    context = await services.authorities.operator_context(job.key, job.uid, services.clock())
    if context is None:
        raise UnreachableError(f"{job.key} has no certificate authority")
    return context


async def _send(
    services: Dependencies,
    state: JobState,
    address: Address,
    tls: ssl.SSLContext | None,
    plan: AnyPlan,
) -> None:
    plan = replace(plan, fencing_token=max(services.fencing_token, state.fencing_token))
    try:
        await services.coordinators.put_plan(address, tls, plan)
    except StalePlanError as stale:
        if stale.fencing_token > plan.fencing_token:
            await _confirm(services, state, stale)
        # An earlier operator went further than its last status says: take up from there.
        fencing_token = max(plan.fencing_token, state.fencing_token)
        plan = replace(plan, generation=stale.generation + 1, fencing_token=fencing_token)
        await services.coordinators.put_plan(address, tls, plan)
        state.plan, state.plan_generation = plan, plan.generation
    state.acknowledged = (address.pod.uid, plan.generation)


async def _confirm(services: Dependencies, state: JobState, stale: StalePlanError) -> None:
    """A later operator has been there: end, if the Lease says so too; raises LeadershipLost.

    The word of a coordinator alone ends nobody: it may run anyone's code.
    """
    if services.election is not None:
        await services.election.confirm()
    state.fencing_token = stale.fencing_token
