"""What one operator process knows beyond the mirror: decisions in force, reports, plans sent.

All of it can be had again: decisions are in the statuses, reports come with the next scrape, and a
Plan sent twice is the same Plan.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from trainyard.api.jobs import Assignment
from trainyard.api.names import Key
from trainyard.api.report import CoordinatorReport
from trainyard.render.events import EventSpec
from trainyard.render.trainer_config import AnyPlan


class Clock(Protocol):
    """Tells the time; injected, so that tests own it."""

    def __call__(self) -> datetime:
        """The present moment, in UTC."""
        ...


def utc_now() -> datetime:
    """The machine's clock."""
    return datetime.now(UTC)


@dataclass(slots=True)
class JobState:
    """What is remembered of one job."""

    uid: str
    scaling: Assignment
    """What the scheduler decided."""
    has_ended: bool = False
    """What it held was given back for good, though its status may not say so yet."""
    report: CoordinatorReport | None = None
    read_from: str = ""
    """The uid of the coordinator's pod that the report is of."""
    plan: AnyPlan | None = None
    """The Plan that is wanted now."""
    plan_generation: int = 0
    """The highest generation given to a Plan; begun from the status."""
    fencing_token: int = 0
    """A term of office that the coordinator insists on although the Lease says otherwise: whoever
    deletes a Lease makes the terms start anew."""
    acknowledged: tuple[str, int] = ("", 0)
    """The coordinator pod's uid and the generation of the last Plan it took."""
    attempted: tuple[str, int] = ("", 0)
    """The same of the last Plan that we began to send, taken or not."""
    children_until: datetime | None = None
    """This process has seen to Secrets and Service, which need no more until then."""
    certified: frozenset[str] = frozenset()
    """Parties that the leaf Secret has certificates for."""
    pending_events: list[EventSpec] = field(default_factory=list)
    """Decisions to be told with the next status."""
    reported_at: datetime | None = None
    """When metrics last went into the status."""
    exchange_failures: int = 0


@dataclass(slots=True)
class JobCache:
    """What is remembered of all jobs."""

    jobs: dict[Key, JobState] = field(default_factory=dict)
