"""PURE: the rules of leader election by a Lease, the same as client-go's.

`at` is a reading of this process's own clock, in seconds: a Lease has expired when *this process*
has observed it unchanged for its duration. The times in the Lease are for people; clocks of two
machines are never compared.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

JITTER = 1.2
"""Pauses are multiplied by up to this, so that replicas do not run in step."""
ONE_SECOND = timedelta(seconds=1)
"""The resolution of a Lease's duration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTimings:
    """The timings of leader election; raises ValueError that names the flag to correct."""

    duration: timedelta = timedelta(seconds=15)
    """Another replica may take a Lease that was not renewed for so long."""
    renew_deadline: timedelta = timedelta(seconds=10)
    """The leader stops acting after so long without a renewal; until `duration` is over, its last
    requests may still arrive."""
    retry: timedelta = timedelta(seconds=2)
    """Pause between two attempts to acquire or renew it."""

    def __post_init__(self) -> None:
        """Reject timings that allow two leaders at a time, or none for long."""
        if self.duration < ONE_SECOND or self.duration % ONE_SECOND:
            raise ValueError("--lease-duration must be whole seconds, at least 1s")
        if self.renew_deadline >= self.duration:
            raise ValueError("--renew-deadline must be shorter than --lease-duration")
        if not timedelta() < self.retry * JITTER < self.renew_deadline:
            raise ValueError(
                f"--retry-period must be more than 0, and times {JITTER} less than --renew-deadline"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderElectionRecord:
    """The content of a Lease."""

    version: str = ""
    """The resource version of the Lease; empty if there is none yet."""
    holder: str = ""
    """The identity of the process that holds it; empty after a release."""
    duration_seconds: int = 0
    acquired_at: str = ""
    renewed_at: str = ""
    transitions: int = 0

    @property
    def fencing_token(self) -> int:
        """A number from 1 that is higher for each holder than for all before it."""
        return self.transitions + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedRecord:
    """A record, and when this process first observed it."""

    record: LeaderElectionRecord
    since: float


def observe(last: ObservedRecord | None, record: LeaderElectionRecord, at: float) -> ObservedRecord:
    """The observation after a reading; the time stays if the record is unchanged."""
    if last is not None and last.record == record:
        return last
    return ObservedRecord(record=record, since=at)


def may_take(observed: ObservedRecord, at: float) -> bool:
    """Whether the Lease is free or has expired.

    Its duration is the one that its holder wrote: replicas may differ during an upgrade.
    """
    record = observed.record
    return not record.holder or at >= observed.since + record.duration_seconds


def acquired(
    record: LeaderElectionRecord,
    identity: str,
    timing: LeaseTimings,
    now: str,
    min_fencing_token: int = 0,
) -> LeaderElectionRecord:
    """The record that makes `identity` the holder, or keeps it so.

    `min_fencing_token` is the token that this process has had already: a holder whose Lease was
    deleted by hand must not count from 1 again.
    """
    is_kept = record.holder == identity
    counted = record.transitions + (0 if is_kept or not record.version else 1)
    return LeaderElectionRecord(
        version=record.version,
        holder=identity,
        duration_seconds=int(timing.duration.total_seconds()),
        acquired_at=record.acquired_at if is_kept else now,
        renewed_at=now,
        transitions=max(counted, min_fencing_token - 1),
    )


def released(record: LeaderElectionRecord, now: str) -> LeaderElectionRecord:
    """The record that lets another process acquire the Lease immediately."""
    return replace(record, holder="", duration_seconds=1, renewed_at=now)
