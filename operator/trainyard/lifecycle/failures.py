"""Pod failures: which are recorded, which count against the job, and when to try again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from trainyard.api.federation import PartyFailure
from trainyard.api.jobs import whole_seconds
from trainyard.api.names import MemberId
from trainyard.api.pods import Pod, is_disruption
from trainyard.api.status import PodFailure, WorkerFailure
from trainyard.lifecycle import messages
from trainyard.lifecycle.timeouts import Timeouts
from trainyard_trainer.contract.exits import Exit, TerminationMessage
from trainyard_trainer.contract.text import printable

MAX_FAILURES = 10
"""Failures kept in the status; the pods of further ones stay until there is room for them."""
SAME_CAUSE_WINDOW = timedelta(seconds=10)
"""Pods of one group that end within this time of each other have one cause, which counts once."""
DISRUPTED = "Disrupted"
"""Reason of a pod that the cluster ended without giving a reason of its own."""
UNCOUNTED = (Exit.FENCED, Exit.WIRE_MISMATCH)
"""Exits that are not the job's fault: a later pod has replaced it, or operator and image are of
different releases, which ends with an upgrade of either."""
LEFT_OUT_PAUSES: Final = tuple(timedelta(minutes=minutes) for minutes in (10, 20, 40, 60))
"""Times until a member that was left out is tried again; the last one repeats."""
MAX_MESSAGE = 900
"""Characters of a failure's message: enough for an error, not for a log."""
MAX_MEMBER_MESSAGE: Final = 300
"""The same in a member's own record: a status may have those of hundreds of members."""
MAX_REASON = 128
"""Characters of a failure's reason; codes are short, but anyone may write a pod's status."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureRecord:
    """All failures so far, and what follows from them."""

    failures: list[PodFailure]
    restarts: int
    """Failures that count; those of one cause count once."""
    coordinator_restarts: int = 0
    """In a federation, those of the aggregator."""
    parties: Mapping[str, PartyFailure] = field(default_factory=dict)
    """The failures of a federation's parties that have not contributed since."""
    workers: Mapping[int, WorkerFailure] = field(default_factory=dict)
    """The failures of workers that others train without, and that have not trained since."""
    ending: Mapping[str, datetime] = field(default_factory=dict)
    """Parties that report the end of the training, and until when the others may follow."""
    fatal_reason: str = ""
    """Why the job must fail now; empty while it may go on."""
    fatal_failure: PodFailure | None = None
    """The failure that the job fails with."""
    retry_at: datetime | None = None
    """No pod of the job is replaced before."""
    mismatch: PodFailure | None = None
    """The newest failure, if operator and image are of different releases."""

    @property
    def left_out(self) -> dict[str, PartyFailure]:
        """The parties that rounds go on without, as they failed again and again."""
        return {name: failure for name, failure in self.parties.items() if failure.left_out}

    @property
    def retry_times(self) -> dict[MemberId, datetime]:
        """When members are replaced that are not replaced at once."""
        retried = {name: f.retry_time for name, f in self.parties.items() if f.retry_time}
        workers = {index: failure.retry_time for index, failure in self.workers.items()}
        return dict([*self.ending.items(), *retried.items(), *workers.items()])

    def left_out_workers(self, now: datetime) -> list[WorkerFailure]:
        """The workers that have failed too often to be tried again yet."""
        return [f for f in self.workers.values() if f.left_out and now < f.retry_time]


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The failures that some of a job's pods share, and how many may count."""

    failures: list[PodFailure]
    restarts: int
    max_restarts: int


def record_against(
    budget: Budget,
    finished: Sequence[Pod],
    timeouts: Timeouts,
    now: datetime,
    deleted: Collection[str],
) -> FailureRecord:
    """Add those of the finished pods that failed and that the budget does not have yet."""
    old, present = budget.failures, {p.uid for p in finished}
    recorded = {f.pod_uid for f in old}
    # A failure is not dropped while its pod is there: it would be counted again.
    space = MAX_FAILURES - sum(f.pod_uid in present for f in old)
    known = recorded.union(deleted)
    new = [p for p in finished if is_failure(p) and p.uid not in known][: max(space, 0)]
    failures = newest([*old, *(pod_failure(p, now) for p in new)], present)
    last = last_counted(old)
    restarts = budget.restarts + any(counts(p, last, now) for p in new)
    reason, fatal = _fatal(failures, restarts, budget.max_restarts)
    return FailureRecord(
        failures=failures,
        restarts=restarts,
        fatal_reason=reason,
        fatal_failure=fatal,
        retry_at=_retry_at(failures, restarts, timeouts),
        mismatch=failures[-1] if failures and _is_mismatch(failures[-1]) else None,
    )


def _fatal(
    failures: list[PodFailure], restarts: int, max_restarts: int
) -> tuple[str, PodFailure | None]:
    """Reason and failure that end the job; no reason while it may go on."""
    for failure in failures:
        if failure.exit_code == Exit.TASK_INVALID:  # a retry would end the same way
            return "TaskInvalid", failure
    if restarts > max_restarts:
        return "TooManyRestarts", failures[-1] if failures else None
    return "", None


def newest(failures: list[PodFailure], kept: Collection[str]) -> list[PodFailure]:
    """As many as the status has room for, without the oldest of those whose uids are not `kept`."""
    excess = max(len(failures) - MAX_FAILURES, 0)
    dropped = {f.pod_uid for f in [f for f in failures if f.pod_uid not in kept][:excess]}
    return [f for f in failures if f.pod_uid not in dropped]


def merged(
    before: list[PodFailure],
    counted: list[PodFailure],
    own: list[PodFailure],
    kept: Collection[str],
) -> list[PodFailure]:
    """The last failures of all pods: those before, the new ones among `counted`, and `own`.

    `own` are new ones of members that have records of their own, so that they may go while their
    pods are there. Those whose uids are `kept` stay.
    """
    old = {failure.pod_uid for failure in before}
    added = [failure for failure in counted if failure.pod_uid not in old]
    return newest([*before, *added, *own], kept)


def member_fields(failure: PodFailure) -> dict[str, Any]:
    """What a member's own record has of its last failure."""
    message = failure.message[:MAX_MEMBER_MESSAGE]
    return {**msgspec.structs.asdict(failure), "message": message}


def left_out_pause(times: int) -> timedelta:
    """How long a member has no pod that is left out for so many times in a row."""
    return LEFT_OUT_PAUSES[min(times, len(LEFT_OUT_PAUSES)) - 1]


def last_counted(failures: list[PodFailure]) -> PodFailure | None:
    """The last failure that counted against the job."""
    return next((f for f in reversed(failures) if not is_excused(f.reason, f.exit_code)), None)


def is_excused(reason: str, exit_code: int | None) -> bool:
    """Whether a pod that ended like this did so through no fault of its own."""
    return is_disruption(reason) or reason == DISRUPTED or exit_code in UNCOUNTED


def is_failure(pod: Pod) -> bool:
    """Whether a finished pod failed; a success without a termination message of ours did too."""
    return pod.has_failed or TerminationMessage.decode(pod.termination_message) is None


def _retry_at(failures: list[PodFailure], restarts: int, timeouts: Timeouts) -> datetime | None:
    """Exponential back-off from one second, after the last failure that counted.

    Pods whose image is of another release are retried after the longest pause.
    """
    if failures and _is_mismatch(failures[-1]):
        return failures[-1].failure_time + timeouts.retry_cap
    last, excused_at = last_counted(failures), _retry_excused_at(failures, timeouts)
    if last is None or not restarts:
        return excused_at
    retry_at = last.failure_time + backoff(restarts, timeouts)
    return retry_at if excused_at is None else max(retry_at, excused_at)


def backoff(times: int, timeouts: Timeouts) -> timedelta:
    """The pause after so many failures: one second, doubled with each, up to the longest."""
    return min(timedelta(seconds=2 ** min(times - 1, 20)), timeouts.retry_cap)


def _retry_excused_at(failures: list[PodFailure], timeouts: Timeouts) -> datetime | None:
    """When to replace a pod that has been lost again and again through no fault of its own.

    The first loss is replaced at once; a node short of memory also evicts whatever comes next.
    """
    excused = [f for f in failures if is_excused(f.reason, f.exit_code)]
    if not excused:
        return None
    last_at = excused[-1].failure_time
    recent = [f for f in excused if f.failure_time > last_at - timeouts.retry_cap]
    losses = max(Counter(_without_attempt(f.pod_name) for f in recent).values())
    return last_at + backoff(losses - 1, timeouts) if losses > 1 else None


def _without_attempt(pod_name: str) -> str:
    """What the names of a pod and of its replacements have in common."""
    return pod_name.rpartition("-")[0]


def _is_mismatch(failure: PodFailure) -> bool:
    return failure.exit_code == Exit.WIRE_MISMATCH


def counts(pod: Pod, last: PodFailure | None, now: datetime) -> bool:
    """Whether the pod failed by itself, and not of the same cause as `last`."""
    if is_excused(failure_reason(pod), pod.exit_code):
        return False
    if last is None or pod.created_at > last.failure_time:
        return True
    return (pod.ended_at or now) > last.failure_time + SAME_CAUSE_WINDOW


def failure_reason(pod: Pod) -> str:
    """Why the pod ended, in one word."""
    return DISRUPTED if pod.is_disrupted and not is_disruption(pod.reason) else pod.reason


def pod_failure(pod: Pod, now: datetime) -> PodFailure:
    """The failure as the status has it."""
    return PodFailure(
        pod_name=pod.name,
        pod_uid=pod.uid,
        failure_time=whole_seconds(now),
        exit_code=pod.exit_code,
        reason=printable(failure_reason(pod))[:MAX_REASON],
        message=printable(messages.pod_failure(pod))[:MAX_MESSAGE],
    )
