"""Pod failures: what they were, in one sentence, what they count, and when to try again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from trainyard.api.jobs import DistributedJob, format_time, parse_time
from trainyard.api.pods import Pod
from trainyard.api.status import Failed
from trainyard.policy.limits import Limits
from trainyard.policy.roster import Roster
from trainyard_trainer.contract import Exit, LastWords, Role

REMEMBERED = 10
"""Failures kept in the status; older pods are long gone."""
PERMANENT = (Exit.TASK_INVALID, Exit.WIRE_MISMATCH)
"""A retry would end the same way."""
SENTENCE = 900
"""Characters of a failure's sentence: room for an error, not for a novel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """All failures so far."""

    failures: list[Failed]
    restarts: int
    """Failures that count against `failure.maxRestarts`; those seen together count once."""
    fatal: str = ""
    """Why the job must fail now; empty while it may go on."""
    fatal_reason: str = ""
    retry_at: datetime | None = None
    """Replacements wait until then."""


def record_failures(job: DistributedJob, roster: Roster, limits: Limits, now: datetime) -> Record:
    """Add the failed pods that the status does not have yet; each is counted once, by its uid."""
    known = {f.uid for f in job.status.failures}
    news = [p for p in roster.finished if is_failure(p) and p.uid not in known]
    failures = [*job.status.failures, *(_record(p, now) for p in news)][-REMEMBERED:]
    restarts = job.status.restarts + any(_counts(p) for p in news)
    reason, fatal = _fatal(failures, restarts, job.spec.failure.max_restarts)
    return Record(
        failures=failures,
        restarts=restarts,
        fatal=fatal,
        fatal_reason=reason,
        retry_at=_retry_at(failures, restarts, limits),
    )


def _fatal(failures: list[Failed], restarts: int, max_restarts: int) -> tuple[str, str]:
    """Reason and sentence of a failure that ends the job; empty while it may go on."""
    for failure in failures:
        if failure.exit_code in PERMANENT:
            is_task = failure.exit_code == Exit.TASK_INVALID
            return "TaskInvalid" if is_task else "WireMismatch", failure.message
    if restarts > max_restarts:
        last = failures[-1].message if failures else ""
        return "TooManyRestarts", (
            f"Failed more often than spec.failure.maxRestarts={max_restarts}; last: {last}"
        )
    return "", ""


def is_failure(pod: Pod) -> bool:
    """Whether a finished pod failed; a success that is not ours to understand is one too."""
    return pod.phase == "Failed" or LastWords.decode(pod.words) is None


def _retry_at(failures: list[Failed], restarts: int, limits: Limits) -> datetime | None:
    """Exponential pauses from one second, after the last failure that counted."""
    if not failures or not restarts:
        return None
    pause = min(timedelta(seconds=2 ** min(restarts - 1, 20)), limits.retry_cap)
    return parse_time(failures[-1].at) + pause


def _counts(pod: Pod) -> bool:
    return not pod.is_disrupted and pod.exit_code != Exit.FENCED


def _record(pod: Pod, now: datetime) -> Failed:
    return Failed(
        pod=pod.name,
        uid=pod.uid,
        at=format_time(now),
        exit_code=pod.exit_code,
        reason=pod.reason,
        message=describe(pod)[:SENTENCE],
    )


def describe(pod: Pod) -> str:
    """One sentence: who failed, how, and what helps."""
    who = f"worker {pod.index}" if pod.role == Role.WORKER else pod.role
    subject = f"{who} (pod {pod.name})"
    if pod.is_disrupted:
        return f"{subject} was ended by the cluster ({pod.reason or 'disruption'})."
    if pod.reason == "OOMKilled":
        field = "workers.resources" if pod.role == Role.WORKER else "coordinator.resources"
        return (
            f"{subject} was killed for exceeding its memory limit (OOMKilled, exit code "
            f"{pod.exit_code}): raise spec.{field}.limits.memory or lower training.batchSize."
        )
    words = LastWords.decode(pod.words)
    said = words.error if words and words.error else pod.words.strip()[-300:]
    code = "without an exit code" if pod.exit_code is None else f"with exit code {pod.exit_code}"
    reason = f" ({pod.reason})" if pod.reason not in ("", "Error") else ""
    return f"{subject} failed {code}{reason}{': ' + said if said else '; it left no last words'}"
