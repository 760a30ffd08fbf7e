"""What the coordinator knows of its workers, and what that means; a value."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from trainyard_trainer.contract.exits import Result
from trainyard_trainer.membership.events import Command, Member, MemberPhase, View


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """All that the coordinator knows of its workers."""

    term: int
    minimum: int = 1
    """Workers without which the first view is not formed."""
    desired: int = 1
    """Workers that should step together; 0 while suspended."""
    members: dict[str, Member] = field(default_factory=dict)
    """The connected workers by ident, in the order in which they came."""
    view: View | None = None
    """The view in force: the highest that a worker with state has begun."""
    pending: View | None = None
    """Announced, and not yet begun by all its members."""
    number: int = 0
    """The highest view number heard of."""
    grace: float = 10.0
    """Seconds in which workers with state may come back before training starts without them."""
    learning_until: float | None = None
    """A coordinator after the first one begins by waiting for them."""
    collecting: str | None = None
    collected: bool = False
    closed: Result | None = None
    """Training has ended so; whoever connects now is dismissed."""

    def phase(self, ident: str) -> MemberPhase:
        """Where a worker stands, for people and metrics."""
        member = self.members.get(ident)
        if member is None:
            return MemberPhase.DEAD
        if member.leaving:
            return MemberPhase.LEAVING
        if member.progress >= 0:
            return MemberPhase.ACTIVE
        return MemberPhase.WARMING if member.announced is None else MemberPhase.REPLAYING

    @property
    def engaged(self) -> list[Member]:
        """The members that hold state or have been told of a view."""
        return [m for m in self.members.values() if m.is_engaged]

    @property
    def has_state(self) -> bool:
        """Whether any connected worker holds state."""
        return any(m.progress >= 0 for m in self.members.values())

    def put(self, *members: Member) -> Registry:
        """The registry with these members' records added or replaced."""
        return replace(self, members={**self.members, **{m.address.member_id: m for m in members}})

    def is_learning(self, now: float) -> bool:
        """Whether workers with state may still be on their way back."""
        if self.learning_until is None or now >= self.learning_until:
            return False
        return self.view is None or not all(i in self.members for i in self.view.member_ids)

    def is_intact(self, view: View) -> bool:
        """Whether all members of `view` are connected and none has stopped."""
        seated = [self.members.get(ident) for ident in view.member_ids]
        return all(m is not None and not m.stopped and not m.asked for m in seated)

    def is_coming(self, view: View) -> bool:
        """Whether a pending view may still be begun: all its members are there and know of it."""
        seated = [self.members[ident] for ident in view.member_ids if ident in self.members]
        return self.is_intact(view) and all(m.announced == view.id for m in seated)

    @property
    def is_broken(self) -> bool:
        """Whether somebody must stop who may be stepping; not while the mending view comes."""
        view, pending = self.view, self.pending
        if pending is not None and pending.initial:
            # A worker with state has come back while others were to start afresh.
            return not self.is_coming(pending) or view is None or view.id < pending.id
        if pending is not None and pending.after is None and self.is_coming(pending):
            return False
        if view is None or any(m.stopped or m.asked for m in self.members.values()):
            return True
        return not self.is_intact(view) or self._has_absent(view)

    def _has_absent(self, view: View) -> bool:
        """Whether a member that is to receive the view's state was called to another since."""
        seated = [self.members[ident] for ident in view.member_ids]
        return any(m.progress < 0 and m.announced != view.id for m in seated)


Transition = tuple[Registry, list[Command]]
"""What is known then, and what is to be done."""
