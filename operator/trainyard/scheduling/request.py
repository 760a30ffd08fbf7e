"""What the scheduler knows of a job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from trainyard.api.cluster import Toleration
from trainyard.api.names import Key
from trainyard.api.status import Change, Measurement


@dataclass(frozen=True, slots=True, kw_only=True)
class PodRequest:
    """What the pod of one party of a gang requests of a node."""

    party: str
    resource: str = "nvidia.com/gpu"
    gpus: int = 0
    """0 for a party on CPUs: it always fits."""
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRequest:
    """One job that has been accepted, is not suspended and is not finished."""

    key: Key
    created_at: datetime
    priority: int = 0
    """Value of the job's priority class; higher goes first."""
    resource: str = "nvidia.com/gpu"
    gpus_per_worker: int = 1
    """0 for a job of CPU workers: it needs no accelerator and always fits."""
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
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
    decision_time: datetime | None = None
    """When the number of workers last changed."""
    measured_at: datetime | None = None
    """When the coordinator's metrics were last read; None before the first time."""
    profile: tuple[Measurement, ...] = ()
    history: tuple[Change, ...] = ()
    """Changes of the number of workers, oldest first."""

    @property
    def assigned(self) -> int | tuple[str, ...]:
        """What is assigned to the job; compared to detect a change in the meantime."""
        return self.admitted_parties if self.gang else self.admitted_workers

    @property
    def requested_workers(self) -> int:
        """`start_workers` within the bounds."""
        return max(self.min_workers, min(self.start_workers, self.max_workers))
