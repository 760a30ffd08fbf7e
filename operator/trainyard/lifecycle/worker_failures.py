"""PURE: A DistributedJob's failures: those of a worker that others train without cost it nothing.

Such a worker is replaced after pauses of its own, then left out by name until it is tried again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

import msgspec

from trainyard.api.jobs import DistributedJob, whole_seconds
from trainyard.api.pods import Pod
from trainyard.api.podset import JobPods
from trainyard.api.report import Contact, CoordinatorReport
from trainyard.api.status import PodFailure, WorkerFailure
from trainyard.lifecycle.failures import (
    Budget,
    FailureRecord,
    backoff,
    failure_reason,
    is_excused,
    is_failure,
    last_counted,
    left_out_pause,
    member_fields,
    merged,
    pod_failure,
    record_against,
)
from trainyard.lifecycle.recorded import recorded_uids
from trainyard.lifecycle.timeouts import Timeouts
from trainyard_trainer.contract.env import Role
from trainyard_trainer.contract.exits import Exit

LEFT_OUT_AFTER: Final = 3
"""Failures in a row with which a worker is left out."""
MAX_UNFIT: Final = 32
"""Workers whose failures do not count at the same time; with more, it is the job's own fault."""
ALONE: Final = (Exit.MEMBER_UNFIT, Exit.NO_DEVICE)
"""Codes that say that the cause is the worker's own, where others train."""
UNFIT: Final = "Unfit"
"""Reason of a failed worker that others train without."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingWorkers:
    """What is known of which workers train."""

    trained: frozenset[str] = frozenset()
    """The uids of pods that have trained, as the present coordinator reported."""
    reported_at: datetime | None = None
    """When any worker was last reported to train; None if the last report says that none does."""

    @classmethod
    def of(
        cls, job: DistributedJob, report: CoordinatorReport | None, contact: Contact
    ) -> TrainingWorkers:
        """What the last report says; before the first, what the status has of an earlier one."""
        if report is not None:
            at = report.at if report.active_workers else None
            return cls(trained=contact.trained, reported_at=at)
        training = job.status.training
        at = training.report_time if training and training.workers else None
        return cls(trained=contact.trained, reported_at=at)


NOBODY_TRAINS: Final = TrainingWorkers()


def record_worker_failures(
    job: DistributedJob,
    pods: JobPods,
    timeouts: Timeouts,
    now: datetime,
    deleted: Collection[str] = (),
    training: TrainingWorkers = NOBODY_TRAINS,
) -> FailureRecord:
    """Add the failed pods that the status does not have yet; each is counted once, by its uid.

    `deleted` are the uids of pods that the operator deleted: whatever they end with is its doing.
    """
    known = recorded_uids(job.status, pods).union(deleted)
    before = _lasting(job, pods, training)
    unfit = _unfit(pods, known, before, training)
    budget = Budget(
        failures=[f for f in job.status.failures if f.reason != UNFIT],
        restarts=job.status.restarts,
        max_restarts=job.spec.failure.max_restarts,
    )
    others = known.union(pod.uid for pod in unfit)
    record = record_against(budget, pods.finished, timeouts, now, others)
    failures = [_failure(pod, now) for pod in unfit]
    workers = dict(before)
    for pod, failure in zip(unfit, failures, strict=True):
        workers[pod.index] = _following(job, workers.get(pod.index), pod.index, failure, timeouts)
    kept = _kept(record.failures, pods)
    last = merged(job.status.failures, record.failures, failures, kept)
    return replace(record, failures=last, workers=dict(sorted(workers.items())))


def _lasting(
    job: DistributedJob, pods: JobPods, training: TrainingWorkers
) -> dict[int, WorkerFailure]:
    """The failures of workers that have not trained since, while others run that may train."""
    lasting = {}
    for failure in job.status.worker_failures:
        pod = pods.members.get(failure.index)
        has_trained = pod is not None and pod.uid in training.trained
        if not has_trained and _has_other(_running(pods), failure.index):
            lasting[failure.index] = _renewed(failure, job.generation)
    return lasting


def _renewed(failure: WorkerFailure, generation: int) -> WorkerFailure:
    """The failure with a new start if the spec was changed since, which may mend its cause."""
    if failure.generation == generation:
        return failure
    return msgspec.structs.replace(
        failure, count=0, left_out=0, retry_time=failure.failure_time, generation=generation
    )


def _running(pods: JobPods) -> Iterator[Pod]:
    return (pod for pod in pods.members.values() if pod.is_running)


def _has_other(pods: Iterable[Pod], index: int) -> bool:
    return any(pod.index != index for pod in pods)


def _unfit(
    pods: JobPods,
    known: Collection[str],
    before: Collection[int],
    training: TrainingWorkers,
) -> list[Pod]:
    """The pods that failed by their own fault, in the order of their attempts."""
    at = training.reported_at
    trained = [pod for pod in _running(pods) if pod.uid in training.trained]
    reported = [pod for pod in _running(pods) if at is not None and pod.created_at <= at]
    found = [
        pod
        for pod in sorted(pods.finished, key=lambda pod: pod.attempt)
        if pod.uid not in known and _may_be_unfit(pod)
        if _says_so(pod, reported) or _has_never_trained(pod, trained, training)
    ]
    new = sorted({pod.index for pod in found} - set(before))[: MAX_UNFIT - len(before)]
    return [pod for pod in found if pod.index in before or pod.index in new]


def _may_be_unfit(pod: Pod) -> bool:
    """Whether it is a worker that failed by itself."""
    if pod.role != Role.WORKER or not is_failure(pod):
        return False
    return not is_excused(failure_reason(pod), pod.exit_code)


def _says_so(pod: Pod, reported: Sequence[Pod]) -> bool:
    """Whether the trainer says by its exit code that others train without it, and some do."""
    return pod.exit_code in ALONE and _has_other(reported, pod.index)


def _has_never_trained(pod: Pod, trained: Sequence[Pod], training: TrainingWorkers) -> bool:
    """Whether it failed before it trained with those that do, be it in the user's code."""
    return pod.uid not in training.trained and _has_other(trained, pod.index)


def _failure(pod: Pod, now: datetime) -> PodFailure:
    return msgspec.structs.replace(pod_failure(pod, now), reason=UNFIT)


def _following(
    job: DistributedJob,
    before: WorkerFailure | None,
    index: int,
    failure: PodFailure,
    timeouts: Timeouts,
) -> WorkerFailure:
    """The record of a worker that has failed, from the one before."""
    count = 1 + (before.count if before else 0)
    left_out = before.left_out if before else 0
    pause = backoff(count, timeouts)
    if count >= LEFT_OUT_AFTER:
        left_out += 1
        pause = left_out_pause(left_out)
    return WorkerFailure(
        index=index,
        **member_fields(failure),
        count=count,
        left_out=left_out,
        generation=job.generation,
        retry_time=whole_seconds(failure.failure_time + pause),
    )


def _kept(counted: list[PodFailure], pods: JobPods) -> set[str]:
    """The uids of failures that stay: the last one that counts, as a pause follows from it."""
    last, present = last_counted(counted), {pod.uid for pod in pods.finished}
    return {f.pod_uid for f in counted if f.pod_uid in present or f is last}
