"""What the coordinator knows of its workers, as a value."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum

from trainyard_trainer.contract.exits import Result
from trainyard_trainer.membership.events import Command
from trainyard_trainer.membership.messages import TaskRaised
from trainyard_trainer.membership.views import MemberAddress, View, ViewId


class MemberPhase(StrEnum):
    """Where a worker stands, for people and metrics."""

    WARMING = "warming"
    """Connected: importing, building, or ready and waiting for a view."""
    REPLAYING = "replaying"
    """Named in a view, receiving its state."""
    ACTIVE = "active"
    LEAVING = "leaving"
    DEAD = "dead"
    """In the view in force, but its connection is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """What the coordinator knows of one connected worker."""

    address: MemberAddress
    ready_at: float | None = None
    """When it had warmed up, on the coordinator's clock; None before."""
    layout: tuple[str, ...] = ()
    """What all members must have alike; empty where it is not known."""
    state_view: ViewId | None = None
    """The last view it entered with state."""
    announced: ViewId | None = None
    """The newest view announced to it."""
    progress: int = -1
    """Iterations committed; -1 without state."""
    digest: str = ""
    stopped: bool = False
    stop_requested: bool = False
    """A StopRequest is on its way and not answered."""
    halted_at: float | None = None
    """Since when it has been stopped or finished, on the coordinator's clock."""
    leaving: bool = False
    left_for: ViewId | None = None
    """The view whose switch left it out, from its Goodbye."""
    raised: TaskRaised | None = None
    """The user's code raised on it, and it waits to be dismissed."""
    is_repeated: bool = False
    """Whether that was on samples on which it had raised on another worker before."""
    finished: Result | None = None
    """It has reached the end, or the suspension, and holds the final state."""

    @property
    def member_id(self) -> str:
        """The worker's identity."""
        return self.address.member_id

    @property
    def pod(self) -> str:
        """The name that all incarnations of this worker have."""
        return self.member_id.rpartition("/")[0] or self.member_id

    @property
    def is_engaged(self) -> bool:
        """Whether it holds state or was called into a view."""
        return self.progress >= 0 or self.announced is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class RaisedBefore:
    """An error of the user's code on a worker that is gone."""

    pod: str
    message: TaskRaised
    survivors: frozenset[str]
    """The members that compute the iteration again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """All that the coordinator knows of its workers."""

    term: int
    minimum: int = 1
    """Workers without which the first view is not formed."""
    desired: int = 1
    """Workers that should step together; 0 while suspended."""
    members: dict[str, Member] = field(default_factory=dict)
    """The connected workers by member id, in the order of their connections."""
    view: View | None = None
    """The view in force: the highest that a worker with state has entered."""
    pending: View | None = None
    """Announced, and not yet entered by all its members."""
    last_number: int = 0
    """The highest view number known."""
    rejoin_seconds: float = 10.0
    """How long workers with state may reconnect before training starts without them."""
    rejoin_deadline: float | None = None
    """Until when they are awaited; set at once in a coordinator after the first one."""
    failed_joins: dict[str, int] = field(default_factory=dict)
    """By pod: planned views with it as a joiner that could not be built, since its last one."""
    stuck_seconds: float = 300.0
    """How long a worker may keep others waiting, at the least, before it is left out."""
    usual_step_seconds: float = 0.0
    """The median duration of recent steps; 0 while it is not known."""
    failed_starts: int = 0
    """Views without a joiner that could not be built, since the last that was."""
    collecting_from: str | None = None
    """The member that was asked to upload the final state."""
    collected: bool = False
    result: Result | None = None
    """How training has ended; whoever connects now is dismissed."""
    failure: str = ""
    """Why the job cannot go on, once `result` is FAILED."""
    raised: tuple[RaisedBefore, ...] = ()
    """Errors of the user's code in the newest iteration that had any."""

    def phase(self, member_id: str) -> MemberPhase:
        """Where a worker stands, for people and metrics."""
        member = self.members.get(member_id)
        if member is None:
            return MemberPhase.DEAD
        if member.leaving:
            return MemberPhase.LEAVING
        if member.progress >= 0:
            return MemberPhase.ACTIVE
        return MemberPhase.WARMING if member.announced is None else MemberPhase.REPLAYING

    @property
    def engaged(self) -> list[Member]:
        """The members that hold state or were called into a view."""
        return [m for m in self.members.values() if m.is_engaged]

    @property
    def has_state(self) -> bool:
        """Whether any connected worker holds state."""
        return any(m.progress >= 0 for m in self.members.values())

    @property
    def is_final(self) -> bool:
        """Whether training has ended in a way that no plan changes."""
        return self.result in (Result.COMPLETE, Result.FAILED)

    def put(self, *members: Member) -> Registry:
        """The registry with these members' records added or replaced."""
        return replace(self, members={**self.members, **{m.member_id: m for m in members}})

    def awaits_rejoin(self, now: float) -> bool:
        """Whether workers with state may still be reconnecting."""
        if self.rejoin_deadline is None or now >= self.rejoin_deadline:
            return False
        return self.view is None or not all(i in self.members for i in self.view.member_ids)

    def is_intact(self, view: View) -> bool:
        """Whether all members of `view` are connected and none has stopped."""
        members = [self.members.get(member_id) for member_id in view.member_ids]
        return all(m is not None and not m.stopped and not m.stop_requested for m in members)

    def can_begin(self, view: View) -> bool:
        """Whether a pending view may still be entered: it is intact, and its members' newest."""
        present = [self.members[i] for i in view.member_ids if i in self.members]
        return self.is_intact(view) and all(m.announced == view.id for m in present)

    @property
    def is_broken(self) -> bool:
        """Whether a worker that may be stepping must stop; not while a recovery view begins."""
        view, pending = self.view, self.pending
        if pending is not None and pending.initial:
            # A worker with state has come back while others were to start afresh.
            return not self.can_begin(pending) or view is None or view.id < pending.id
        if pending is not None and pending.after is None and self.can_begin(pending):
            return False
        if view is None or any(m.stopped or m.stop_requested for m in self.members.values()):
            return True
        return not self.is_intact(view) or self._has_diverted_receiver(view)

    def _has_diverted_receiver(self, view: View) -> bool:
        """Whether a member that is to receive the view's state was called to another since."""
        members = [self.members[member_id] for member_id in view.member_ids]
        return any(m.progress < 0 and m.announced != view.id for m in members)


Transition = tuple[Registry, list[Command]]
"""What the coordinator knows afterwards, and the messages to send."""
