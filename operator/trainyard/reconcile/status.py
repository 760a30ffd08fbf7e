"""Reporting: the status is written once per reconcile, or not at all, and Events follow it."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from trainyard.api import names
from trainyard.api.jobs import Job, Status, format_time
from trainyard.api.podset import group_pods
from trainyard.api.validation import Rejection
from trainyard.cluster.client import collection
from trainyard.cluster.errors import ApiError
from trainyard.lifecycle.desired import DesiredState
from trainyard.lifecycle.recorded import failed_uids
from trainyard.lifecycle.status import StatusInputs, is_urgent, rejected_status, status_of
from trainyard.logs import job_fields
from trainyard.reconcile.dependencies import Dependencies
from trainyard.reconcile.resource import drop_if_deleted, update_status
from trainyard.reconcile.state import JobState
from trainyard.render.events import EventSpec, event, events_for
from trainyard_trainer.contract.env import Role

log = logging.getLogger(__name__)

CONFLICT_PAUSE = timedelta(seconds=1)
"""The event of the change that conflicted comes sooner, unless the watch is broken."""


async def write_status(
    deps: Dependencies, job: Job, state: JobState, desired: DesiredState, now: datetime
) -> datetime | None:
    """Write the status if it changed, then record Events; returns when to try again."""
    status = _status(deps, job, state, desired, now)
    if status == job.status:
        state.figures_at = None
        return None
    due_at = _due_at(deps, job, state, status, now)
    if now < due_at:
        return due_at
    return await _write(deps, job, state, status, now)


async def write_rejection(
    deps: Dependencies, job: Job, state: JobState, rejection: Rejection, now: datetime
) -> datetime | None:
    """Write why the job is not accepted, and nothing else; returns when to try again."""
    status = rejected_status(job, rejection, now)
    return None if status == job.status else await _write(deps, job, state, status, now)


async def _write(
    deps: Dependencies, job: Job, state: JobState, status: Status, now: datetime
) -> datetime | None:
    try:
        written = await update_status(deps, job, status)
    except ApiError as error:
        if drop_if_deleted(deps, job, error):
            return now
        if error.is_conflict:
            return now + CONFLICT_PAUSE  # the job has changed and is observed again
        raise
    state.status_written_at, state.figures_at = now, None
    deps.cache.put_job(written, only_known=True)
    _count_failures(deps, job, status)
    _log_phase(job, status)
    events, state.pending_events = [*state.pending_events, *events_for(job.status, status)], []
    for spec in events:
        await _record_event(deps, job, spec, now)
    return None


def _status(
    deps: Dependencies, job: Job, state: JobState, desired: DesiredState, now: datetime
) -> Status:
    pods = group_pods(deps.cache.pods_of(job.key), job.uid)  # with those just created
    inputs = StatusInputs(
        desired=desired,
        pods=pods,
        assignment=state.assignment.value,
        report=state.coordinator.report,
        term=pods.term,
        plan_generation=state.coordinator.plan_generation,
        now=now,
    )
    return status_of(job, inputs)


def _due_at(
    deps: Dependencies, job: Job, state: JobState, status: Status, now: datetime
) -> datetime:
    """When the status may be written: now, unless only figures (metrics or messages) differ.

    Those of all jobs together are limited, as each is a write to etcd.
    """
    if is_urgent(job.status, status):
        return now
    if state.status_written_at is not None:
        timeouts, is_read = deps.options.timeouts, state.coordinator.report is not None
        interval = timeouts.metrics_interval if is_read else timeouts.messages_interval
        # At the latest then, though the clock was set back meanwhile.
        if now < (due_at := min(state.status_written_at, now) + interval * 0.9):
            return due_at
    if state.figures_at is None:
        state.figures_at = deps.figures.reserve(now)
    return state.figures_at


def _count_failures(deps: Dependencies, job: Job, status: Status) -> None:
    hostname = names.coordinator_hostname(job.key.name)
    coordinators = {f.pod_uid for f in status.failures if f.pod_name.startswith(f"{hostname}-")}
    for uid in failed_uids(status) - failed_uids(job.status):
        role = Role.COORDINATOR if uid in coordinators else job.member_role
        deps.metrics.failures.labels(role).inc()


def _log_phase(job: Job, status: Status) -> None:
    if status.phase != job.status.phase:
        fields = {"phase": status.phase, "phase_before": job.status.phase}
        log.info("phase changed", extra=job_fields(job.key) | fields)


async def _record_event(deps: Dependencies, job: Job, spec: EventSpec, now: datetime) -> None:
    """Create the Event; a refused one is logged, never retried."""
    manifest = event(job, spec, format_time(now), deps.options.identity)
    try:
        await deps.client.create(collection("v1", "events", job.key.namespace), manifest)
    except ApiError as error:
        if not error.already_exists:
            log.info("an event of %s was refused: %s", job.key, error)
