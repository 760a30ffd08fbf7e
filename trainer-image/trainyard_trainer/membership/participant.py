"""The worker's half of the membership protocol.

Each function takes the participant and what happened, and returns the participant and what the
worker is to do about it. All of it runs in the training thread, between or inside collectives.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from trainyard_trainer.membership.events import View, ViewId


class Mode(StrEnum):
    """What a participant is doing."""

    IDLE = "idle"
    """Without state, waiting for a view."""
    ENTERING = "entering"
    """Building the group of a view and receiving its state."""
    STEPPING = "stepping"
    STOPPED = "stopped"
    """With state, waiting for a view that begins at once."""
    HALTED = "halted"
    """At the end or at the suspension, with the final state."""


class Reaction(StrEnum):
    """What the worker is to do."""

    NOTHING = "nothing"
    ENTER = "enter"
    """Leave whatever it is in and begin `Participant.view`."""
    PREPARE = "prepare"
    """Build the group of `Participant.pending` beside the one in use."""
    REPORT = "report"
    """Leave whatever it is in and say how far it came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Votes:
    """What a participant adds to a step's control vector, and what it reads from the sum.

    Sums alone tell whether all added the same: for n equal numbers, and only for those, the square
    of the sum is n times the sum of squares (Cauchy and Schwarz).
    """

    term: float = 0.0
    term_square: float = 0.0
    number: float = 0.0
    number_square: float = 0.0
    plan: float = 0.0
    plan_square: float = 0.0

    @classmethod
    def of(cls, ready: ViewId | None, plan: int) -> Votes:
        """The votes of one participant: the view it has prepared, and the newest plan it knows."""
        term, number = (ready.term, ready.number) if ready is not None else (0, 0)
        return cls(
            term=term,
            term_square=term**2,
            number=number,
            number_square=number**2,
            plan=plan,
            plan_square=plan**2,
        )

    def agreed_view(self, size: int) -> ViewId | None:
        """The view that all `size` participants have prepared, if there is one."""
        equal = self.term**2 == size * self.term_square
        equal = equal and self.number**2 == size * self.number_square
        if not equal or self.number == 0:
            return None
        return ViewId(term=int(self.term) // size, number=int(self.number) // size)

    def agreed_plan(self, size: int) -> int:
        """The generation of the newest plan that all know; 0 while they do not all know it."""
        return int(self.plan) // size if self.plan**2 == size * self.plan_square else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Participant:
    """What a worker knows of its membership."""

    member_id: str
    mode: Mode = Mode.IDLE
    term: int = 0
    """The highest coordinator's term heard of."""
    announced: ViewId | None = None
    view: View | None = None
    """The view begun, or being entered."""
    state_view: View | None = None
    """The last view begun with state: what the state at `progress` belongs to."""
    pending: View | None = None
    """Announced, to be switched to when all members of `view` have prepared it."""
    ballot: View | None = None
    """The pending view that it has voted for in the turn under way; by the time the votes are
    counted, another may be pending, but all have agreed on this one."""
    progress: int = -1
    """Turns committed; -1 without state."""

    @property
    def is_stopped(self) -> bool:
        """Whether it was in a view, or called to one, and has left it."""
        return self.mode is Mode.STOPPED or (self.mode is Mode.IDLE and self.announced is not None)

    @property
    def is_member(self) -> bool:
        """Whether it belongs to the view it is in."""
        return self.view is not None and self.member_id in self.view.member_ids


Step = tuple[Participant, Reaction]


def receive_view(participant: Participant, view: View) -> Step:
    """React to the announcement of a view; one from a fenced coordinator is ignored."""
    me = participant
    if view.id.term < me.term or (me.announced is not None and view.id <= me.announced):
        return me, Reaction.NOTHING
    me = replace(me, announced=view.id, term=view.id.term)
    match me.mode:
        case Mode.HALTED:
            return me, Reaction.NOTHING
        case _ if me.progress < 0:
            return _enter(me, view)
        case Mode.STEPPING if view.after is not None:
            follows = me.view is not None and view.after == me.view.id
            return (
                (replace(me, pending=view), Reaction.PREPARE) if follows else (me, Reaction.NOTHING)
            )
        case Mode.STOPPED if view.after is None and not view.initial:
            return _enter(me, view)
        case _:
            # Whoever cannot follow says so, or the coordinator would wait for it.
            return _stop(me), Reaction.REPORT


def receive_stop(participant: Participant) -> Step:
    """React to the coordinator's wish that everybody stop."""
    if participant.mode is Mode.HALTED:
        return participant, Reaction.NOTHING
    return _stop(participant), Reaction.REPORT


def receive_term(participant: Participant, term: int) -> Participant:
    """A coordinator has introduced itself; what a lower one announced is not begun any more."""
    if term <= participant.term:
        return participant
    return replace(participant, term=term, pending=None)


def fail(participant: Participant) -> Step:
    """A collective, or the making of a group, has failed."""
    return _stop(participant), Reaction.REPORT


def begin(participant: Participant, progress: int) -> Participant:
    """The view being entered has its group, and the participant the view's state."""
    based = participant.view
    return replace(participant, mode=Mode.STEPPING, progress=progress, state_view=based)


def vote(participant: Participant, *, is_prepared: bool) -> Participant:
    """It enters a turn's last collective, ready to switch to the pending view or not."""
    return replace(participant, ballot=participant.pending if is_prepared else None)


def commit(participant: Participant) -> Participant:
    """A turn's last collective has completed."""
    return replace(participant, progress=participant.progress + 1)


def switch(participant: Participant, agreed: ViewId | None) -> Step:
    """After a commit on whose votes all had prepared `agreed`: enter it.

    A participant that is no member of the new view enters it too, as the one that it leaves for.
    """
    ballot = participant.ballot
    if agreed is None or ballot is None or ballot.id != agreed:
        return participant, Reaction.NOTHING
    return _enter(participant, ballot)


def halt(participant: Participant) -> Participant:
    """The participant has reached the end or the suspension."""
    return replace(participant, mode=Mode.HALTED, pending=None)


def reset(participant: Participant, ident: str) -> Participant:
    """It was given up for dead: its state is void, and it comes back as another."""
    return Participant(member_id=ident, term=participant.term)


def _enter(me: Participant, view: View) -> Step:
    return replace(me, mode=Mode.ENTERING, view=view, pending=None, ballot=None), Reaction.ENTER


def _stop(me: Participant) -> Participant:
    mode = Mode.STOPPED if me.progress >= 0 else Mode.IDLE
    return replace(me, mode=mode, pending=None, ballot=None)
