"""The worker's half of the membership protocol.

Each function takes the participant and what happened, and returns the participant and the action
that the worker must take. All of it runs in the training thread, between or inside collectives.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from trainyard_trainer.membership.views import View, ViewId


class ParticipantPhase(StrEnum):
    """Where a participant stands, as it knows itself."""

    IDLE = "idle"
    """Without state, waiting for a view."""
    ENTERING = "entering"
    """Building the process group of a view and receiving its state."""
    STEPPING = "stepping"
    STOPPED = "stopped"
    """With state, waiting for a view that begins at once."""
    FINISHED = "finished"
    """At the end or at the suspension, with the final state."""


class ViewAction(StrEnum):
    """What the worker must do about its views."""

    NONE = "none"
    ENTER = "enter"
    """Leave the current view and enter `Participant.view`."""
    PREPARE = "prepare"
    """Build the process group of `Participant.pending` beside the one in use."""
    STOP = "stop"
    """Leave the current view and send `Stopped`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Votes:
    """A participant's part of an iteration's control vector, and the sum over all participants.

    The sums alone show whether all votes are equal: for n equal numbers, and only for those, the
    square of the sum is n times the sum of squares (Cauchy-Schwarz).
    """

    term: float = 0.0
    term_square: float = 0.0
    number: float = 0.0
    number_square: float = 0.0
    plan: float = 0.0
    plan_square: float = 0.0

    @classmethod
    def of(cls, prepared: ViewId | None, plan: int) -> Votes:
        """One participant's votes: the view it has prepared, and its newest plan's generation."""
        term, number = (prepared.term, prepared.number) if prepared is not None else (0, 0)
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
        """The generation of the plan that all have received as their newest; 0 without one."""
        return int(self.plan) // size if self.plan**2 == size * self.plan_square else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Participant:
    """What a worker knows of its membership."""

    member_id: str
    phase: ParticipantPhase = ParticipantPhase.IDLE
    term: int = 0
    """The highest term of a coordinator that it has met."""
    announced: ViewId | None = None
    """The newest view announced to it."""
    view: View | None = None
    """The view it steps in, or is entering."""
    state_view: View | None = None
    """The last view entered with state: what the state at `progress` belongs to."""
    pending: View | None = None
    """Announced, to be switched to when all members of `view` have prepared it."""
    ballot: View | None = None
    """The pending view that it has voted for in this iteration; by the time the votes are counted,
    another may be pending, but all have agreed on this one."""
    progress: int = -1
    """Iterations committed; -1 without state."""

    @property
    def is_stopped(self) -> bool:
        """Whether it was in a view, or called to one, and has left it."""
        is_idle = self.phase is ParticipantPhase.IDLE
        return self.phase is ParticipantPhase.STOPPED or (is_idle and self.announced is not None)

    @property
    def is_member(self) -> bool:
        """Whether it belongs to the view it is in."""
        return self.view is not None and self.member_id in self.view.member_ids


Step = tuple[Participant, ViewAction]


def receive_view(participant: Participant, view: View) -> Step:
    """React to the announcement of a view; one from a fenced coordinator is ignored."""
    me = participant
    if view.id.term < me.term or (me.announced is not None and view.id <= me.announced):
        return me, ViewAction.NONE
    me = replace(me, announced=view.id, term=view.id.term)
    match me.phase:
        case ParticipantPhase.FINISHED:
            return me, ViewAction.NONE
        case _ if me.progress < 0:
            return _enter(me, view)
        case ParticipantPhase.STEPPING if view.after is not None:
            if me.view is not None and view.after == me.view.id:
                return replace(me, pending=view), ViewAction.PREPARE
            return me, ViewAction.NONE
        case ParticipantPhase.STOPPED if view.after is None and not view.initial:
            return _enter(me, view)
        case _:
            # A worker that cannot follow reports it, or the coordinator would wait for it.
            return _stop(me), ViewAction.STOP


def receive_stop(participant: Participant) -> Step:
    """React to the coordinator's request that everybody stop."""
    if participant.phase is ParticipantPhase.FINISHED:
        return participant, ViewAction.NONE
    return _stop(participant), ViewAction.STOP


def receive_term(participant: Participant, term: int) -> Participant:
    """Note the term of a coordinator; what one of a lower term announced is not begun any more."""
    if term <= participant.term:
        return participant
    return replace(participant, term=term, pending=None)


def fail(participant: Participant) -> Step:
    """React to the failure of a collective, or of building a process group."""
    return _stop(participant), ViewAction.STOP


def begin(participant: Participant, progress: int) -> Participant:
    """Begin stepping in the view being entered: its group and its state are there."""
    return replace(
        participant,
        phase=ParticipantPhase.STEPPING,
        progress=progress,
        state_view=participant.view,
    )


def vote(participant: Participant, *, is_prepared: bool) -> Participant:
    """Enter an iteration's last collective, with a vote for the pending view when prepared."""
    return replace(participant, ballot=participant.pending if is_prepared else None)


def commit(participant: Participant) -> Participant:
    """Count an iteration whose last collective has completed."""
    return replace(participant, progress=participant.progress + 1)


def switch(participant: Participant, agreed: ViewId | None) -> Step:
    """After a commit by whose votes all had prepared `agreed`: enter it.

    A participant that is no member of the new view enters it too, in order to leave by it.
    """
    ballot = participant.ballot
    if agreed is None or ballot is None or ballot.id != agreed:
        return participant, ViewAction.NONE
    return _enter(participant, ballot)


def finish(participant: Participant) -> Participant:
    """Reach the end or the suspension."""
    return replace(participant, phase=ParticipantPhase.FINISHED, pending=None)


def reset(participant: Participant, member_id: str) -> Participant:
    """Start again under a new id: the old one was given up for dead, and its state is void."""
    return Participant(member_id=member_id, term=participant.term)


def _enter(me: Participant, view: View) -> Step:
    entering = replace(me, phase=ParticipantPhase.ENTERING, view=view, pending=None, ballot=None)
    return entering, ViewAction.ENTER


def _stop(me: Participant) -> Participant:
    phase = ParticipantPhase.STOPPED if me.progress >= 0 else ParticipantPhase.IDLE
    return replace(me, phase=phase, pending=None, ballot=None)
