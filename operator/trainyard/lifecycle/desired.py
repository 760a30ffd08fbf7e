"""What follows from one look at a job: its phase, the pods it should have, what its status says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from trainyard.api.conditions import Condition
from trainyard.api.names import MemberId
from trainyard.api.status import PodFailure
from trainyard_trainer.contract.exits import TerminationMessage


def earliest(*moments: datetime | None) -> datetime | None:
    """The first of those that are set; None if none is."""
    return min((moment for moment in moments if moment is not None), default=None)


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
    workers: int = 0
    parties: tuple[str, ...] = ()
    replace_at: datetime | None = None
    """Pods that failed are not replaced before."""
    keeps_live: bool = False
    """Live pods beyond the wish are left to end by themselves."""
    keeps_finished: bool = False
    """Finished pods stay, so that their logs can be read."""

    @property
    def members(self) -> Sequence[MemberId]:
        """The workers or parties that should have pods."""
        return self.parties or range(self.workers)


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredState:
    """Everything that follows from one look at a job."""

    phase: Phase
    pods: DesiredPods = DesiredPods()
    conditions: tuple[Condition, ...] = ()
    suspend: bool = False
    """The coordinator should checkpoint and stop."""
    release: str = ""
    """Why the job gives up its GPUs; empty while it keeps them."""
    refuse_start: bool = False
    """Whether it must stand back before it is admitted again."""
    failures: list[PodFailure] = field(default_factory=list)
    restarts: int = 0
    started: bool = False
    completed: bool = False
    termination_message: TerminationMessage | None = None
    """What a complete training's last words report."""
    delete_job: bool = False
    """Its time to live after the end is over."""
    requeue_at: datetime | None = None
