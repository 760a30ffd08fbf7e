"""What the scheduler knows of a job, and what it answers: the two sides of `allocate`.

They stand apart from the rules so that every rule, the first (`Throughput`) and the later ones,
speaks of the same values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from trainyard.api.cluster import Toleration
from trainyard.api.names import Key
from trainyard.api.reasons import Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """Samples per second, measured at steady state in one configuration."""

    nodes: int
    workers: int
    local_batch: int
    samples_per_second: float
    steps: int
    """Steps behind the figure; few steps are no measurement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PastChange:
    """An earlier decision of this job that was carried out."""

    from_workers: int
    to_workers: int
    decided_at: datetime
    expected_speedup: float | None = None
    measured_speedup: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PodRequest:
    """What one party of a gang asks of a node."""

    party: str
    resource: str = "nvidia.com/gpu"
    gpus: int = 0
    """0 for a party on the CPU: it asks for nothing."""
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
    """The parties of a federation, each with a place of its own; empty for a job of equal workers,
    and what is said of workers then counts for nothing."""
    start_workers: int = 1
    """`spec.workers.replicas`: the starting size; under `Manual` the size that is wanted now."""
    policy: Literal["Manual", "Throughput", "Goodput"] = "Throughput"
    mode: Literal["Apply", "Recommend"] = "Apply"
    min_gain: float = 1.05
    """A growth must have multiplied the throughput by at least this to be kept and repeated."""
    cooldown: timedelta = timedelta(seconds=60)
    max_changes_per_hour: int = 12

    admitted_workers: int = 0
    """The number of workers (or parties) now in force; 0 while the job waits."""
    admitted_parties: tuple[str, ...] = ()
    """Those of the gang that have room."""
    admitted_at: datetime | None = None
    is_running: bool = False
    """Whether all admitted workers train together; no policy changes a job that is not steady."""
    refused_until: datetime | None = None
    """A gang that did not start in time stands back until then."""
    decided_at: datetime | None = None
    """When the number of workers last changed."""
    measured_at: datetime | None = None
    """When the coordinator was last read; None before the first time."""
    profile: tuple[Throughput, ...] = ()
    history: tuple[PastChange, ...] = ()
    """Carried-out changes, oldest first."""

    @property
    def assigned(self) -> int | tuple[str, ...]:
        """What the job holds; compared to see whether it changed meanwhile."""
        return self.admitted_parties if self.gang else self.admitted_workers


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """How many workers a job should have now, and why."""

    workers: int
    """0 keeps the job waiting."""
    parties: tuple[str, ...] = ()
    """Those of a gang that have room."""
    recommended: int
    """What the policy would choose; differs from `workers` only under `mode: Recommend`."""
    reason: Reason
    message: str
    """One sentence with the figures behind it."""
    expected_speedup: float | None = None
    """Samples per second after ÷ before that a change should bring."""
    requeue_at: datetime | None = None
    """When time alone may change this decision; None when only events can."""


Allocation = Mapping[Key, Decision]
