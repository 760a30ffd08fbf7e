"""What follows from an observation: a job's phase, the pods it should have, its conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from trainyard.api.conditions import Condition
from trainyard.api.federation import PartyFailure
from trainyard.api.names import MemberId
from trainyard.api.status import PodFailure, WorkerFailure
from trainyard_trainer.contract.env import Role
from trainyard_trainer.contract.exits import TerminationMessage


def earliest(*times: datetime | None) -> datetime | None:
    """The first of those that are set; None if none is."""
    return min((time for time in times if time is not None), default=None)


class Phase(StrEnum):
    """A job's state in one word, for people."""

    PENDING = "Pending"
    WAITING = "Waiting"
    STARTING = "Starting"
    RUNNING = "Running"
    RESCALING = "Rescaling"
    SUSPENDING = "Suspending"
    SUSPENDED = "Suspended"
    COMPLETE = "Complete"
    FAILED = "Failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredPods:
    """The pods a job should have."""

    coordinator: bool = False
    members: Sequence[MemberId] = ()
    """The workers or parties that should have pods."""
    member_role: Role = Role.WORKER
    replace_at: datetime | None = None
    """Nothing is created before."""
    retry_times: Mapping[MemberId, datetime] = field(default_factory=dict)
    """Members that get no pod before a time of their own."""
    replace_coordinator: bool = False
    """The live coordinator is deleted, so that another one takes over."""
    keeps_live: bool = False
    """Live pods that are not desired are left to exit by themselves."""
    keeps_finished: bool = False
    """Finished pods stay, so that their logs can be read."""
    ends_lingering: bool = False
    """But for those in which another container goes on and holds the resources."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredState:
    """Everything that follows from one observation of a job."""

    phase: Phase
    pods: DesiredPods = DesiredPods()
    conditions: tuple[Condition, ...] = ()
    suspend: bool = False
    """The coordinator should checkpoint and stop."""
    release: str = ""
    """Why the job releases its GPUs; empty while it keeps them."""
    refuse_start: bool = False
    """Whether it must back off before it is admitted again."""
    trains: bool = False
    """Whether the start succeeded, so that the failed ones before it are forgotten."""
    failures: list[PodFailure] = field(default_factory=list)
    restarts: int = 0
    coordinator_restarts: int = 0
    party_failures: Mapping[str, PartyFailure] = field(default_factory=dict)
    worker_failures: Mapping[int, WorkerFailure] = field(default_factory=dict)
    started: bool = False
    completed: bool = False
    termination_message: TerminationMessage | None = None
    """What a complete training reports."""
    delete_job: bool = False
    """Its time to live is over."""
    requeue_at: datetime | None = None
