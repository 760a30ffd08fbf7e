"""PURE: A federation's failures: the aggregator and each of the parties have their own budgets.

A party that fails again and again is left out, and the job fails only once too few are left.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import msgspec

from trainyard.api import names
from trainyard.api.federation import FederatedJobStatus, PartyFailure
from trainyard.api.jobs import FederatedJob, Job, whole_seconds
from trainyard.api.pods import Pod
from trainyard.api.podset import JobPods
from trainyard.api.status import PodFailure
from trainyard.lifecycle import messages
from trainyard.lifecycle.failures import (
    Budget,
    FailureRecord,
    backoff,
    counts,
    is_excused,
    is_failure,
    last_counted,
    left_out_pause,
    member_fields,
    merged,
    pod_failure,
    record_against,
)
from trainyard.lifecycle.recorded import failed_uids, recorded_uids
from trainyard.lifecycle.timeouts import Timeouts
from trainyard_trainer.contract.env import Role
from trainyard_trainer.contract.exits import Exit, Result

ENDED_EARLY = "EndedEarly"
"""Reason of a party that reports the end of the training while the others train."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ended:
    """A party's pod that ended, and how it is judged."""

    pod: Pod
    failure: PodFailure
    is_counted: bool


def record_party_failures(
    job: FederatedJob,
    pods: JobPods,
    timeouts: Timeouts,
    now: datetime,
    deleted: Collection[str] = (),
    *,
    is_over: bool = False,
) -> FailureRecord:
    """Add the failures that the status does not have yet, each to the budget of its pod.

    `deleted` are the uids of pods that the operator deleted itself; `is_over` is whether the
    aggregator reports the end of the training.
    """
    aggregator = _aggregator_record(job, pods, timeouts, now, deleted)
    ending = {} if is_over else _ending(job, pods, timeouts)
    early = {uid for uid, (_, until) in ending.items() if now >= until}
    known = recorded_uids(job.status, pods).union(deleted)
    ended = [
        _Ended(
            pod=pod,
            failure=_failure(pod, now),
            is_counted=counts(pod, last_counted(aggregator.failures), now),
        )
        for pod in pods.finished
        if pod.role == Role.PARTY and pod.uid not in known and (is_failure(pod) or pod.uid in early)
    ]
    parties = _party_records(job, ended, timeouts)
    own, kept = [each.failure for each in ended], _kept(aggregator.failures, pods)
    failures = merged(job.status.failures, aggregator.failures, own, kept)
    return _with_fatal(
        job,
        replace(
            aggregator,
            failures=failures,
            restarts=_restarts(job, pods, ended, aggregator.failures, now),
            coordinator_restarts=aggregator.restarts,
            parties=parties,
            ending=dict(ending[uid] for uid in ending.keys() - early),
        ),
    )


def unchanged_record(job: Job) -> FailureRecord:
    """The record of a job whose failures no longer count, as its status has it."""
    status = job.status
    if not isinstance(status, FederatedJobStatus):
        return FailureRecord(
            failures=status.failures,
            restarts=status.restarts,
            workers={failure.index: failure for failure in status.worker_failures},
        )
    return FailureRecord(
        failures=status.failures,
        restarts=status.restarts,
        coordinator_restarts=status.coordinator_restarts,
        parties={party.name: party.failure for party in status.parties if party.failure},
    )


def have_parties_completed(job: FederatedJob, pods: JobPods) -> bool:
    """Whether most of the parties that are not left out report the end of the training.

    One alone may be mistaken, or lie.
    """
    left_out = {p.name for p in job.status.parties if p.failure and p.failure.left_out}
    expected = job.party_names - left_out
    complete = {pod.party for pod, _ in pods.ended(Result.COMPLETE, Role.PARTY)}
    return 2 * len((complete - pods.members.keys()) & expected) > len(expected)


# --- The aggregator ---


def _aggregator_record(
    job: FederatedJob,
    pods: JobPods,
    timeouts: Timeouts,
    now: datetime,
    deleted: Collection[str],
) -> FailureRecord:
    budget = Budget(
        failures=[f for f in job.status.failures if _is_aggregators(job, f)],
        restarts=job.status.coordinator_restarts,
        max_restarts=job.spec.failure.max_restarts,
    )
    finished = [pod for pod in pods.finished if pod.role == Role.COORDINATOR]
    return record_against(budget, finished, timeouts, now, deleted)


def _is_aggregators(job: FederatedJob, failure: PodFailure) -> bool:
    return failure.pod_name.startswith(f"{names.coordinator_hostname(job.key.name)}-")


# --- The parties ---


def _ending(
    job: FederatedJob, pods: JobPods, timeouts: Timeouts
) -> dict[str, tuple[str, datetime]]:
    """Parties that alone report the end, and until when most may follow, by their pods' uids."""
    if have_parties_completed(job, pods):
        return {}
    known = recorded_uids(job.status, pods)
    return {
        pod.uid: (pod.party, (pod.ended_at or pod.created_at) + timeouts.finish_grace)
        for pod, _ in pods.ended(Result.COMPLETE, Role.PARTY)
        if pod.party not in pods.members and pod.uid not in known
    }


def _failure(pod: Pod, now: datetime) -> PodFailure:
    failure = pod_failure(pod, now)
    if is_failure(pod):
        return failure
    message = messages.ended_early(pod)
    return msgspec.structs.replace(failure, reason=ENDED_EARLY, message=message)


def _party_records(
    job: FederatedJob, ended: list[_Ended], timeouts: Timeouts
) -> dict[str, PartyFailure]:
    """The last failure of each party of the spec that has not contributed since."""
    records = {
        party.name: _renewed(party.failure, job.generation)
        for party in job.status.parties
        if party.failure is not None
    }
    rounds = {party.name: party.rounds for party in job.status.parties}
    for each in sorted(ended, key=lambda each: each.pod.attempt):
        name = each.pod.party
        before = records.get(name)
        records[name] = _following(job, before, each, rounds.get(name, 0), timeouts)
    return {name: records[name] for name in sorted(job.party_names & records.keys())}


def _renewed(failure: PartyFailure, generation: int) -> PartyFailure:
    """The failure with a new budget if the spec was changed since, which may mend its cause."""
    if failure.generation == generation:
        return failure
    return msgspec.structs.replace(
        failure, count=0, losses=0, left_out=0, retry_time=None, generation=generation
    )


def _following(
    job: FederatedJob,
    before: PartyFailure | None,
    ended: _Ended,
    rounds: int,
    timeouts: Timeouts,
) -> PartyFailure:
    """The record of a party whose pod has ended, from the one before."""
    failure = ended.failure
    before = before or _without_failures(failure)
    count = before.count + ended.is_counted
    is_beyond = ended.is_counted and (
        failure.exit_code == Exit.TASK_INVALID or count > job.spec.failure.max_restarts
    )
    is_soon = failure.failure_time <= before.failure_time + timeouts.retry_cap
    losses = 0 if ended.is_counted else 1 + (before.losses if is_soon else 0)
    left_out = before.left_out + is_beyond
    pause = _pause(failure, count, losses, left_out if is_beyond else 0, timeouts)
    return PartyFailure(
        **member_fields(failure),
        count=count,
        losses=losses,
        left_out=left_out,
        rounds=rounds,
        generation=job.generation,
        retry_time=whole_seconds(failure.failure_time + pause) if pause else None,
    )


def _without_failures(first: PodFailure) -> PartyFailure:
    """The record of a party before its first failure."""
    return PartyFailure(
        pod_name=first.pod_name, pod_uid=first.pod_uid, failure_time=first.failure_time
    )


def _pause(
    failure: PodFailure, count: int, losses: int, left_out: int, timeouts: Timeouts
) -> timedelta:
    """How long the party has no pod; the first pod that is lost is replaced at once."""
    if left_out:
        return left_out_pause(left_out)
    if failure.exit_code == Exit.WIRE_MISMATCH:
        return timeouts.retry_cap
    if is_excused(failure.reason, failure.exit_code):
        return backoff(losses - 1, timeouts) if losses > 1 else timedelta()
    return backoff(count, timeouts) if count else timedelta()


# --- All of them ---


def _restarts(
    job: FederatedJob,
    pods: JobPods,
    ended: list[_Ended],
    aggregators: list[PodFailure],
    now: datetime,
) -> int:
    """Failures of all pods; those of one cause count once."""
    new = {f.pod_uid for f in aggregators} - failed_uids(job.status)
    failed = [each.pod for each in ended] + [pod for pod in pods.finished if pod.uid in new]
    last = last_counted(job.status.failures)
    return job.status.restarts + any(counts(pod, last, now) for pod in failed)


def _kept(aggregators: list[PodFailure], pods: JobPods) -> set[str]:
    """The uids of the aggregator's failures that stay: its pause follows from the last one."""
    present = {pod.uid for pod in pods.finished if pod.role == Role.COORDINATOR}
    return present.union(failure.pod_uid for failure in aggregators[-1:])


def _with_fatal(job: FederatedJob, record: FailureRecord) -> FailureRecord:
    """The record, with why the job fails if too few parties are left."""
    left_out = record.left_out
    has_enough = len(job.party_names) - len(left_out) >= job.quorum
    if record.fatal_reason or not left_out or has_enough:
        return record
    last = max(left_out.values(), key=lambda failure: failure.failure_time)
    is_invalid = last.exit_code == Exit.TASK_INVALID
    message = messages.too_few_parties(sorted(left_out), job.quorum, last.message)
    return replace(
        record,
        fatal_reason="TaskInvalid" if is_invalid else "TooManyRestarts",
        fatal_failure=msgspec.structs.replace(last, message=message),
    )
