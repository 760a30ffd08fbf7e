"""The facts behind decisions: numbers, names and times, of which `explain` makes sentences."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Self

from trainyard.api.status import Provisioning
from trainyard.scheduling.basis import Basis
from trainyard.scheduling.capacity import Availability
from trainyard.scheduling.request import JobRequest
from trainyard.scheduling.shapes import PodShape


@dataclass(frozen=True, slots=True, kw_only=True)
class PodsRequest:
    """What a number of equal workers requests."""

    workers: int
    shape: PodShape

    @classmethod
    def of(cls, job: JobRequest, workers: int) -> Self:
        """What so many workers of the job request."""
        return cls(workers=workers, shape=job.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortage:
    """What a job lacks of the size that it should have."""

    missing: PodsRequest
    desired: int
    """The size that would need them."""
    availability: Availability


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkersAdmitted:
    """A waiting job starts."""

    request: PodsRequest
    desired: int
    """Workers that it would have started with, had they fitted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkersProvisioning:
    """A waiting job starts on nodes that a pool has yet to add."""

    minimum: PodsRequest
    pool: str
    nodes: int
    """Nodes that the pool has to add."""
    give_up_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkersWaiting:
    """The job's minimum does not fit now."""

    minimum: PodsRequest
    availability: Availability
    unready_nodes: int
    """Nodes that match the request and are not ready."""
    in_the_way: tuple[str, ...] = ()
    """Some pods that are of no job and keep the minimum from fitting: namespace/name."""
    refused_class: str = ""
    """The priority class that the job names and its namespace may not use."""
    provisioning: Provisioning | None = None
    """The pool that added no nodes in time; None if none was asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkersDoNotFit:
    """The job's minimum would not fit even on empty nodes."""

    minimum: PodsRequest
    matching_nodes: int
    capacity: int
    """Workers that the matching nodes would hold if they were empty."""
    provisioning: Provisioning | None = None
    """The pool that added no nodes in time; None if none was asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StartTimedOut:
    """The job backs off after a start that did not run in time."""

    minimum: PodsRequest | None
    """None for a gang of unlike parties."""
    requeue_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingParty:
    """A party that does not fit now."""

    party: str
    shape: PodShape
    matching_nodes: int
    availability: Availability


@dataclass(frozen=True, slots=True, kw_only=True)
class PartiesAdmitted:
    """A waiting gang starts."""

    parties: int
    gpus: tuple[tuple[str, int], ...]
    """Accelerators of all parties by resource name, ascending."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartiesWaiting:
    """Some parties of a gang do not fit, so that none starts."""

    parties: int
    """All parties of the gang."""
    waiting: tuple[WaitingParty, ...]
    in_the_way: tuple[str, ...] = ()
    """Some pods that are of no job and keep the gang from fitting: namespace/name."""
    refused_class: str = ""
    """The priority class that the job names and its namespace may not use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartiesAssigned:
    """A gang that was admitted keeps its parties, and adds those that fit."""

    parties: int
    added: tuple[str, ...]
    waiting: tuple[WaitingParty, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeKept:
    """An admitted job keeps its number of workers."""

    workers: int
    basis: Basis
    shortage: Shortage | None
    """What it would need to grow, where only that is in the way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeChanged:
    """An admitted job gets another number of workers, or would."""

    before: int
    after: int
    basis: Basis
    is_recommendation: bool
    """Whether the change is only recommended."""
    added: PodsRequest | None
    """What the job gets; None when it shrinks."""
    expected_speedup: float | None
    shortage: Shortage | None


Facts = (
    WorkersAdmitted
    | WorkersProvisioning
    | WorkersWaiting
    | WorkersDoNotFit
    | StartTimedOut
    | PartiesAdmitted
    | PartiesWaiting
    | PartiesAssigned
    | SizeKept
    | SizeChanged
)
