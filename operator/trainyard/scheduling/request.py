"""What the scheduler knows of a job."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from trainyard.api.names import Key
from trainyard.api.refusals import Refusal
from trainyard.api.status import Change, Measurement, NotPlaced, Provisioning
from trainyard.scheduling.shapes import PodShape


@dataclass(frozen=True, slots=True, kw_only=True)
class PodRequest:
    """What the pod of one party of a gang requests of a node."""

    party: str
    shape: PodShape


@dataclass(frozen=True, slots=True, kw_only=True)
class UnfitWorker:
    """A worker that others train without, as it alone cannot take part."""

    index: int
    retry_at: datetime
    message: str
    """Why it cannot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRequest:
    """One job that has been accepted, is not suspended and is not finished."""

    key: Key
    created_at: datetime
    resumed_at: datetime | None = None
    """When its last suspension ended; None if it was never suspended."""
    priority: int = 0
    """Value of the job's priority class; higher goes first."""
    refused_class: str = ""
    """The priority class that the job names and its namespace may not use."""
    shape: PodShape
    """What each worker requests; of no meaning for a gang."""
    coordinator: PodShape | None = None
    """What the coordinator requests; None once its pod has a node."""
    min_workers: int = 1
    max_workers: int = 1
    gang: tuple[PodRequest, ...] = ()
    """The parties of a federation, each with a request of its own; the request of workers does not
    count then. Empty for a job of equal workers."""
    start_workers: int = 1
    """`spec.workers.replicas`: the starting size; under `Manual` the desired size."""
    policy: Literal["Manual", "Throughput", "Goodput"] = "Throughput"
    mode: Literal["Apply", "Recommend"] = "Apply"
    min_gain: float = 1.05
    """A growth must have multiplied the throughput by at least this to be kept and repeated."""
    cooldown: timedelta = timedelta(seconds=60)
    max_changes_per_hour: int = 12

    admitted_workers: int = 0
    """The number of workers (or parties) now in force; 0 while the job waits."""
    admitted_parties: tuple[str, ...] = ()
    """The assigned parties of the gang."""
    admitted_at: datetime | None = None
    is_running: bool = False
    """Whether all admitted workers train together; no policy changes a job that is not steady."""
    backoff_until: datetime | None = None
    """When a job whose start timed out is queued again."""
    last_failed_start: datetime | None = None
    """When a start of the job last failed; None once it has trained since."""
    refusal: Refusal | None = None
    """Why pods of admitted workers do not exist; None where nothing is refused."""
    mounts_claims: bool = False
    """Whether workers mount volumes that may have to be provisioned first."""
    not_placed: NotPlaced | None = None
    provisioning: Provisioning | None = None
    unfit: tuple[UnfitWorker, ...] = ()
    """Workers that have failed too often while others trained."""
    left_out: tuple[int, ...] = ()
    """The indices that the assignment in force goes on without."""
    decision_time: datetime | None = None
    """When the number of workers last changed."""
    proven_workers: int = 0
    """The largest size found to pay since the job was last smaller."""
    measured_at: datetime | None = None
    """When the coordinator's metrics were last read; None before the first time."""
    profile: tuple[Measurement, ...] = ()
    history: tuple[Change, ...] = ()
    """Changes of the number of workers, oldest first."""

    @property
    def queued_at(self) -> datetime:
        """Since when the job asks without a break, by which it is older or younger than others."""
        return self.resumed_at or self.created_at

    @property
    def gpus_per_worker(self) -> int:
        """What a worker costs: its accelerators of the first kind; 1 of CPU workers."""
        return next((count for _, count in self.shape.accelerators), 1)

    @property
    def assigned(self) -> int | tuple[str, ...]:
        """What is assigned to the job; compared to detect a change in the meantime."""
        return self.admitted_parties if self.gang else self.admitted_workers

    @property
    def requested_workers(self) -> int:
        """`start_workers` within the bounds."""
        return max(self.min_workers, min(self.start_workers, self.max_workers))
