"""Pod failures: what they were, in one sentence, what they count, and when to try again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from trainyard.api.jobs import Job, whole_seconds
from trainyard.api.pods import DISRUPTIONS, Pod
from trainyard.api.podset import JobPods
from trainyard.api.status import PodFailure
from trainyard.lifecycle.timeouts import Timeouts
from trainyard_trainer.contract.env import Role
from trainyard_trainer.contract.exits import Exit, TerminationMessage

MAX_FAILURES = 10
"""Failures kept in the status; more at once wait as pods until there is room for them."""
SAME_CAUSE_WINDOW = timedelta(seconds=10)
"""Pods of one crew that end within this time of each other break for one cause: it counts once."""
DISRUPTED = "Disrupted"
"""Reason of a pod that the cluster ended without naming one of its own."""
UNCOUNTED = (Exit.FENCED, Exit.WIRE_MISMATCH)
"""Ends that are not the job's fault: another pod took the place, or operator and image are of
different releases, which ends with an upgrade of either."""
MAX_MESSAGE = 900
"""Characters of a failure's sentence: room for an error, not for a novel."""
MAX_REASON = 128
"""Characters of a failure's reason; codes are short, but anyone may write a pod's status."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureRecord:
    """All failures so far."""

    failures: list[PodFailure]
    restarts: int
    """Failures that count against `failure.maxRestarts`; those seen together count once."""
    fatal: str = ""
    """Why the job must fail now; empty while it may go on."""
    fatal_reason: str = ""
    retry_at: datetime | None = None
    """Replacements wait until then."""
    mismatch: str = ""
    """What the newest failure said, if it was that operator and image are of different releases."""


def record_failures(job: Job, roster: JobPods, limits: Timeouts, now: datetime) -> FailureRecord:
    """Add the failed pods that the status does not have yet; each is counted once, by its uid."""
    old, present = job.status.failures, {p.uid for p in roster.finished}
    known = {f.uid for f in old}
    # A failure is not forgotten while its pod is there: it would be counted again.
    room = MAX_FAILURES - sum(f.uid in present for f in old)
    news = [p for p in roster.finished if is_failure(p) and p.uid not in known][: max(room, 0)]
    failures = _newest([*old, *(_pod_failure(p, now) for p in news)], present)
    last = _last_counted(old)
    restarts = job.status.restarts + any(_counts(p, last, now) for p in news)
    reason, fatal = _fatal(failures, restarts, job.spec.failure.max_restarts)
    return FailureRecord(
        failures=failures,
        restarts=restarts,
        fatal=fatal,
        fatal_reason=reason,
        retry_at=_retry_at(failures, restarts, limits),
        mismatch=failures[-1].message if failures and _is_mismatch(failures[-1]) else "",
    )


def _fatal(failures: list[PodFailure], restarts: int, max_restarts: int) -> tuple[str, str]:
    """Reason and sentence of a failure that ends the job; empty while it may go on."""
    for failure in failures:
        if failure.exit_code == Exit.TASK_INVALID:  # a retry would end the same way
            return "TaskInvalid", failure.message
    if restarts > max_restarts:
        last = failures[-1].message if failures else ""
        return "TooManyRestarts", (
            f"Failed more often than spec.failure.maxRestarts={max_restarts}; last: {last}"
        )
    return "", ""


def _newest(failures: list[PodFailure], present: Collection[str]) -> list[PodFailure]:
    """As many as may be remembered, without the oldest of those whose pods are gone."""
    excess = max(len(failures) - MAX_FAILURES, 0)
    dropped = {f.uid for f in [f for f in failures if f.uid not in present][:excess]}
    return [f for f in failures if f.uid not in dropped]


def _last_counted(failures: list[PodFailure]) -> PodFailure | None:
    """The last failure that was held against the job."""
    return next((f for f in reversed(failures) if not _is_excused(f.reason, f.exit_code)), None)


def _is_excused(reason: str, exit_code: int | None) -> bool:
    return reason in (*DISRUPTIONS, DISRUPTED) or exit_code in UNCOUNTED


def is_failure(pod: Pod) -> bool:
    """Whether a finished pod failed; a success that is not ours to understand is one too."""
    return pod.phase == "Failed" or TerminationMessage.decode(pod.termination_message) is None


def _retry_at(failures: list[PodFailure], restarts: int, limits: Timeouts) -> datetime | None:
    """Exponential pauses from one second, after the last failure that counted.

    Pods of an image that does not understand this operator are tried again after the longest.
    """
    if failures and _is_mismatch(failures[-1]):
        return failures[-1].at + limits.retry_cap
    last, calm_at = _last_counted(failures), _calm_at(failures, limits)
    if last is None or not restarts:
        return calm_at
    retry_at = last.at + _pause(restarts, limits)
    return retry_at if calm_at is None else max(retry_at, calm_at)


def _pause(times: int, limits: Timeouts) -> timedelta:
    return min(timedelta(seconds=2 ** min(times - 1, 20)), limits.retry_cap)


def _calm_at(failures: list[PodFailure], limits: Timeouts) -> datetime | None:
    """When to replace the pod of a place that loses one after another through no fault of its own.

    The first loss is made good at once; a node short of memory evicts whatever comes next, too.
    """
    excused = [f for f in failures if _is_excused(f.reason, f.exit_code)]
    if not excused:
        return None
    last_at = excused[-1].at
    recent = [f for f in excused if f.at > last_at - limits.retry_cap]
    losses = max(Counter(_place(f) for f in recent).values())
    return last_at + _pause(losses - 1, limits) if losses > 1 else None


def _place(failure: PodFailure) -> str:
    """The pod's name without its attempt."""
    return failure.pod.rpartition("-")[0]


def _is_mismatch(failure: PodFailure) -> bool:
    return failure.exit_code == Exit.WIRE_MISMATCH


def _counts(pod: Pod, last: PodFailure | None, now: datetime) -> bool:
    """Whether the pod's end is a failure of its own, not one more of the crew that broke `last`."""
    if _is_excused(_reason(pod), pod.exit_code):
        return False
    if last is None or pod.created_at > last.at:
        return True
    return (pod.ended_at or now) > last.at + SAME_CAUSE_WINDOW


def _reason(pod: Pod) -> str:
    return DISRUPTED if pod.is_disrupted and pod.reason not in DISRUPTIONS else pod.reason


def _pod_failure(pod: Pod, now: datetime) -> PodFailure:
    return PodFailure(
        pod=pod.name,
        uid=pod.uid,
        at=whole_seconds(now),
        exit_code=pod.exit_code,
        reason=_reason(pod)[:MAX_REASON],
        message=describe(pod)[:MAX_MESSAGE],
    )


def describe(pod: Pod) -> str:
    """One sentence: who failed, how, and what helps."""
    who = pod.role if pod.role == Role.COORDINATOR else f"{pod.role} {pod.member}"
    subject = f"{who} (pod {pod.name})"
    if pod.is_disrupted:
        return f"{subject} was ended by the cluster ({pod.reason or 'disruption'})."
    if pod.reason == "OOMKilled":
        return (
            f"{subject} was killed for exceeding its memory limit (OOMKilled, exit code "
            f"{pod.exit_code}): raise spec.{_resources_of(pod)}.limits.memory or lower "
            "training.batchSize."
        )
    words = TerminationMessage.decode(pod.termination_message)
    said = words.error if words and words.error else pod.termination_message.strip()[-300:]
    code = "without an exit code" if pod.exit_code is None else f"with exit code {pod.exit_code}"
    reason = f" ({pod.reason})" if pod.reason not in ("", "Error") else ""
    return f"{subject} failed {code}{reason}{': ' + said if said else '; it left no last words'}"


def _resources_of(pod: Pod) -> str:
    """The field of the spec that a pod's memory comes from."""
    if pod.role == Role.PARTY:
        return f"parties[{pod.party}].resources"
    return "workers.resources" if pod.role == Role.WORKER else "coordinator.resources"
