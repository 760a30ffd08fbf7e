"""The nouns of the membership protocol: views, members, what is heard, what is to be done.

They stand apart because both halves of the protocol, and the wire, speak in them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from trainyard_trainer.contract.exits import Result


class MemberPhase(StrEnum):
    """Where a worker stands."""

    WARMING = "warming"
    """Connected: importing, building, or warm and waiting for a view."""
    REPLAYING = "replaying"
    """Named in a view, receiving its state."""
    ACTIVE = "active"
    LEAVING = "leaving"
    DEAD = "dead"
    """In the view in force, but its connection is gone."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class ViewId:
    """A view's name; a later view of any coordinator compares greater."""

    term: int
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberAddress:
    """A worker's place in a view."""

    member_id: str
    """`pod/incarnation`: a process that was given up for dead comes back under another."""
    address: str = ""
    """`host:port` of the worker's rendezvous store."""
    node: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A set of workers that step together; a worker's rank is its index in `seats`."""

    id: ViewId
    members: tuple[MemberAddress, ...]
    source: str
    """The member whose state the others take over when `transfer` is set."""
    transfer: bool
    after: ViewId | None = None
    """The view whose members agree on the step of the switch; None begins at once."""
    initial: bool = False
    """Nobody has state: the source makes it, from a checkpoint where there is one."""

    @property
    def member_ids(self) -> tuple[str, ...]:
        """The members in rank order."""
        return tuple(seat.member_id for seat in self.members)

    def __str__(self) -> str:
        """The view in one line, for logs."""
        how = "first" if self.initial else "planned" if self.after else "mended"
        return f"view {self.id.term}.{self.id.number} ({how}): {', '.join(self.member_ids)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """What the coordinator knows of one connected worker."""

    address: MemberAddress
    ready_at: float | None = None
    """When it had warmed up, on the coordinator's clock; None before."""
    view: ViewId | None = None
    """The last view it began with state."""
    announced: ViewId | None = None
    """The last view announced to it."""
    progress: int = -1
    """Turns committed; -1 without state."""
    digest: str = ""
    stopped: bool = False
    asked: bool = False
    """A Stop is on its way and not answered."""
    leaving: bool = False
    halted: Result | None = None
    """It has reached the end, or the suspension, and holds the final state."""

    @property
    def is_engaged(self) -> bool:
        """Whether it holds state or has been told of a view."""
        return self.progress >= 0 or self.announced is not None


# Events: what the coordinator hears.
@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """A worker connected; after a loss of the coordinator it brings what it knows."""

    member: Member
    view: View | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Warm:
    """A worker has warmed up."""

    ident: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Began:
    """A worker has begun a view with state."""

    ident: str
    view: View
    progress: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """A worker's view broke, or it was asked to stop; it waits for a view that begins at once."""

    ident: str
    heard: ViewId | None
    view: ViewId | None
    progress: int
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Halted:
    """A worker has come to the end or to the suspension."""

    ident: str
    result: Result
    progress: int
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaving:
    """A worker was asked to end and wants to be let go."""

    ident: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """A worker's connection is gone; `view` is what it switched out of its own into, if it left."""

    ident: str
    left_for: ViewId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The plan in force wants so many workers; none while it suspends."""

    workers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """The state that a `Collect` asked for is stored."""

    ident: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """Time has passed."""


Event = Joined | Warm | Began | Stopped | Halted | Leaving | Lost | Wanted | Collected | Tick


# Commands: what the coordinator is to do.
@dataclass(frozen=True, slots=True, kw_only=True)
class Announce:
    """Tell a worker of a view."""

    to: str
    view: View


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Have a worker stop at once and report how far it came."""

    to: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    """Tell a worker that it was given up: its state is void, it may come back as a new one."""

    to: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Collect:
    """Have a worker send in its state."""

    to: str
    result: Result


@dataclass(frozen=True, slots=True, kw_only=True)
class Dismiss:
    """Let a worker end well."""

    to: str
    result: Result


Command = Announce | Stop | Fence | Collect | Dismiss
