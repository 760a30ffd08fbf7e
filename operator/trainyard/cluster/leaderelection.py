"""PURE: the rules of the Lease by which one of several operators acts, as client-go's.

`at` is a reading of this process' own clock, in seconds: a Lease has expired when *this process*
has seen it unchanged for its duration. The times that stand in the Lease are for people; clocks of
two machines are never compared.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

JITTER = 1.2
"""A pause is stretched by up to so much, so that replicas do not march in step."""
WHOLE = timedelta(seconds=1)
"""A Lease counts its duration in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTimings:
    """How long a Lease holds; raises ValueError that names the flag to mend."""

    duration: timedelta = timedelta(seconds=15)
    """Others take the Lease when it has not been renewed for so long."""
    renew_deadline: timedelta = timedelta(seconds=10)
    """The holder acts no longer when it has not renewed for so long. What lies between the two is
    the time for its last requests to arrive."""
    retry: timedelta = timedelta(seconds=2)
    """Pause between two attempts to take or renew it."""

    def __post_init__(self) -> None:
        """Refuse what would let two act at a time, or nobody for long."""
        if self.duration < WHOLE or self.duration % WHOLE:
            raise ValueError("--lease-duration must be whole seconds, at least 1s")
        if self.renew_deadline >= self.duration:
            raise ValueError("--renew-deadline must be shorter than --lease-duration")
        if not timedelta() < self.retry * JITTER < self.renew_deadline:
            raise ValueError(
                f"--retry-period must be more than 0, and times {JITTER} less than --renew-deadline"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderElectionRecord:
    """What a Lease says."""

    version: str = ""
    """Its resource version; empty when there is no Lease yet."""
    holder: str = ""
    """Identity of the process that holds it; empty when it was released."""
    duration_seconds: int = 0
    acquired_at: str = ""
    renewed_at: str = ""
    transitions: int = 0

    @property
    def fencing_token(self) -> int:
        """The holder's term of office: each holder's is higher than all before it, from 1."""
        return self.transitions + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedRecord:
    """A record, and when this process first saw it so."""

    record: LeaderElectionRecord
    since: float


def observe(last: ObservedRecord | None, record: LeaderElectionRecord, at: float) -> ObservedRecord:
    """What a reading adds: one that found nothing new leaves the time as it was."""
    if last is not None and last.record == record:
        return last
    return ObservedRecord(record=record, since=at)


def may_take(sighting: ObservedRecord, at: float) -> bool:
    """Whether nobody holds the Lease, or its holder has been silent for its duration.

    The duration is the holder's own: during an upgrade the replicas may have different ones.
    """
    record = sighting.record
    return not record.holder or at >= sighting.since + record.duration_seconds


def acquired(
    record: LeaderElectionRecord, identity: str, timing: LeaseTimings, now: str, least: int = 0
) -> LeaderElectionRecord:
    """The record that makes `identity` the holder, or keeps it.

    `least` is the term of office that this process has had already: who holds a Lease that was
    deleted by hand must not start to count anew.
    """
    is_kept = record.holder == identity
    counted = record.transitions + (0 if is_kept or not record.version else 1)
    return LeaderElectionRecord(
        version=record.version,
        holder=identity,
        duration_seconds=int(timing.duration.total_seconds()),
        acquired_at=record.acquired_at if is_kept else now,
        renewed_at=now,
        transitions=max(counted, least - 1),
    )


def released(record: LeaderElectionRecord, now: str) -> LeaderElectionRecord:
    """The record that lets another take the Lease at once."""
    return replace(record, holder="", duration_seconds=1, renewed_at=now)
