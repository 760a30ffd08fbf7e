"""Decisions of the membership protocol, one history each; the checker walks the rest."""

from dataclasses import replace

import pytest

from trainyard_trainer.contract.exits import Result
from trainyard_trainer.membership import participant as worker
from trainyard_trainer.membership.decisions import START_SETTLE_SECONDS, step
from trainyard_trainer.membership.events import (
    Announce,
    Began,
    Collect,
    Collected,
    Command,
    Dismiss,
    Event,
    Fence,
    Halted,
    Joined,
    Leaving,
    Lost,
    Member,
    MemberAddress,
    Stop,
    Stopped,
    Tick,
    View,
    ViewId,
    Wanted,
    Warm,
)
from trainyard_trainer.membership.participant import Mode, Participant, Reaction, Votes
from trainyard_trainer.membership.registry import Registry


class Coordinator:
    """A registry, its clock and the commands it has given."""

    def __init__(self, wanted: int, minimum: int = 1, term: int = 1) -> None:
        self.registry = Registry(term=term, minimum=minimum, desired=wanted, grace=10.0)
        self.now = 0.0
        self.said: list[Command] = []

    def hear(self, *events: Event, after: float = 0.0) -> list[Command]:
        """What it commands upon these events."""
        self.now += after
        said: list[Command] = []
        for event in events:
            self.registry, commands = step(self.registry, event, self.now)
            said += commands
        self.said += said
        return said

    def idents(self) -> tuple[str, ...]:
        """The members of the view announced last."""
        return self.announced.member_ids

    @property
    def announced(self) -> View:
        return [c.view for c in self.said if isinstance(c, Announce)][-1]

    def join(self, *names: str) -> None:
        for name in names:
            self.hear(
                Joined(member=Member(address=MemberAddress(member_id=name))), Warm(ident=name)
            )

    def begin(self, progress: int = 0) -> None:
        """All members begin the view announced last."""
        view = self.announced
        for ident in view.member_ids:
            self.hear(Began(ident=ident, view=view, progress=progress))

    def stopped(self, ident: str, progress: int, digest: str = "") -> Stopped:
        member = self.registry.members[ident]
        return Stopped(
            ident=ident, heard=member.announced, view=member.view, progress=progress, digest=digest
        )


def running(*names: str, wanted: int = 0) -> Coordinator:
    """A coordinator whose first view has begun."""
    coordinator = Coordinator(wanted or len(names), minimum=len(names))
    coordinator.join(*names)
    coordinator.hear(Tick(), after=START_SETTLE_SECONDS)
    coordinator.begin()
    return coordinator


def test_the_first_view_waits_for_the_plan_then_for_the_minimum() -> None:
    coordinator = Coordinator(wanted=3, minimum=2)
    coordinator.join("a")
    assert coordinator.hear(Tick(), after=100.0) == []
    coordinator.join("b")
    assert coordinator.hear(Tick(), after=START_SETTLE_SECONDS / 2) == []
    coordinator.hear(Tick(), after=START_SETTLE_SECONDS)
    assert coordinator.idents() == ("a", "b")
    assert coordinator.announced.initial


def test_the_first_view_forms_at_once_when_all_are_there() -> None:
    coordinator = Coordinator(wanted=2)
    coordinator.join("a", "b")
    assert coordinator.idents() == ("a", "b")


def test_joiners_are_batched_up_to_the_plan() -> None:
    coordinator = running("a", wanted=3)
    coordinator.join("b")
    assert coordinator.idents() == ("a",)
    coordinator.join("c", "d")
    assert coordinator.idents() == ("a", "b", "c")
    assert coordinator.announced.transfer
    assert coordinator.announced.after is not None


def test_a_leaver_is_let_go_without_a_transfer() -> None:
    coordinator = running("a", "b")
    coordinator.hear(Leaving(ident="a"))
    assert coordinator.idents() == ("b",)
    assert not coordinator.announced.transfer


def test_leavers_with_nobody_staying_hand_their_state_to_a_joiner_first() -> None:
    coordinator = running("a", wanted=2)
    coordinator.join("b")
    coordinator.hear(Leaving(ident="a"))
    assert coordinator.idents() == ("a", "b")
    assert coordinator.hear(Tick(), Tick(), after=1.0) == []  # Announced once, not over and over.
    coordinator.begin(3)
    assert coordinator.idents() == ("b",)


def test_the_last_to_leave_is_collected_from() -> None:
    coordinator = running("a")
    assert coordinator.hear(Leaving(ident="a")) == [Stop(to="a")]
    said = coordinator.hear(coordinator.stopped("a", 5))
    assert said == [Collect(to="a", result=Result.LEFT)]
    said = coordinator.hear(Collected(ident="a"))
    assert said == [Dismiss(to="a", result=Result.LEFT)]
    coordinator.join("b")
    coordinator.hear(Tick(), after=START_SETTLE_SECONDS)
    assert coordinator.announced.initial


def test_survivors_adopt_the_state_of_the_furthest() -> None:
    coordinator = running("a", "b", "c")
    assert set(coordinator.hear(Lost(ident="c"))) == {Stop(to="a"), Stop(to="b")}
    coordinator.hear(coordinator.stopped("a", 6, "x"))
    coordinator.hear(coordinator.stopped("b", 7, "y"))
    view = coordinator.announced
    assert (view.member_ids, view.source, view.transfer) == (("a", "b"), "b", True)
    assert view.after is None


def test_equal_survivors_need_no_transfer() -> None:
    coordinator = running("a", "b", "c")
    coordinator.hear(Lost(ident="c"))
    coordinator.hear(coordinator.stopped("a", 6, "x"), coordinator.stopped("b", 6, "x"))
    assert not coordinator.announced.transfer


def test_a_report_made_before_the_newest_view_was_heard_of_is_stale() -> None:
    coordinator = running("a", "b", "c")
    late = coordinator.stopped("a", 6)
    coordinator.hear(Lost(ident="c"))
    coordinator.hear(coordinator.stopped("a", 6), coordinator.stopped("b", 6))
    coordinator.begin(6)
    assert coordinator.hear(late) == []


def test_a_member_that_comes_back_after_the_mending_is_fenced() -> None:
    coordinator = running("a", "b", "c")
    member, view = coordinator.registry.members["c"], coordinator.registry.view
    coordinator.hear(Lost(ident="c"))
    coordinator.hear(coordinator.stopped("a", 6), coordinator.stopped("b", 6))
    back = Joined(member=replace(member, progress=7), view=view)
    assert coordinator.hear(back) == [Fence(to="c")]


def test_a_member_that_comes_back_in_time_takes_part_in_the_mending() -> None:
    coordinator = running("a", "b")
    member, view = coordinator.registry.members["b"], coordinator.registry.view
    coordinator.hear(Lost(ident="b"))
    said = coordinator.hear(Joined(member=replace(member, progress=7), view=view))
    assert said == [Stop(to="b")]


def test_the_only_one_with_state_is_waited_for_before_starting_afresh() -> None:
    coordinator = running("a", wanted=2)
    member, view = coordinator.registry.members["a"], coordinator.registry.view
    coordinator.hear(Lost(ident="a"))
    coordinator.join("b", "c")
    assert coordinator.hear(Tick(), after=5.0) == []
    coordinator.hear(Joined(member=replace(member, progress=9), view=view))
    assert coordinator.registry.view == view
    assert not coordinator.announced.initial


def test_the_only_one_with_state_is_not_waited_for_for_ever() -> None:
    coordinator = running("a", wanted=1)
    coordinator.hear(Lost(ident="a"))
    coordinator.join("b")
    coordinator.hear(Tick(), after=20.0)
    assert coordinator.idents() == ("b",)
    assert coordinator.announced.initial


def test_a_later_coordinator_learns_the_view_from_its_members() -> None:
    first = running("a", "b")
    later = Coordinator(wanted=2, term=2)
    later.registry = replace(later.registry, learning_until=10.0)
    for ident in ("a", "b"):
        member = replace(first.registry.members[ident], ready_at=0.0)
        assert later.hear(Joined(member=member, view=first.registry.view)) == []
    assert later.registry.view == first.registry.view
    later.hear(Wanted(workers=3))
    later.join("c")
    assert later.announced.id == ViewId(term=2, number=2)


def test_what_a_lost_worker_was_asked_for_is_asked_of_another() -> None:
    coordinator = running("a", "b")
    for ident in ("a", "b"):
        said = coordinator.hear(Halted(ident=ident, result=Result.COMPLETE, progress=9, digest="x"))
    assert said == [Collect(to="a", result=Result.COMPLETE)]
    assert coordinator.hear(Lost(ident="a")) == [Collect(to="b", result=Result.COMPLETE)]
    said = coordinator.hear(Collected(ident="b"))
    assert said == [Dismiss(to="b", result=Result.COMPLETE)]


def test_a_job_suspended_before_it_began_dismisses_its_workers() -> None:
    coordinator = Coordinator(wanted=2)
    coordinator.hear(Wanted(workers=0))
    coordinator.hear(Joined(member=Member(address=MemberAddress(member_id="a"))))
    assert coordinator.said == [Dismiss(to="a", result=Result.SUSPENDED)]
    coordinator.hear(Wanted(workers=1))
    coordinator.join("b")
    assert coordinator.idents() == ("b",)


# --- the worker's half ----------------------------------------------------------------------------


def view(number: int, *names: str, after: int | None = None) -> View:
    before = None if after is None else ViewId(term=1, number=after)
    return View(
        id=ViewId(term=1, number=number),
        members=tuple(MemberAddress(member_id=name) for name in names),
        source=names[0],
        transfer=True,
        after=before,
    )


def stepping(in_view: View) -> Participant:
    me = Participant(member_id="a", view=in_view, mode=Mode.ENTERING, term=1, announced=in_view.id)
    return worker.begin(me, 4)


def test_a_switch_goes_to_the_view_voted_for_and_not_to_a_newer_one() -> None:
    me = stepping(view(1, "a", "b"))
    second, third = view(2, "a", "b", "c", after=1), view(3, "a", "b", after=1)
    me, _ = worker.receive_view(me, second)
    me = worker.vote(me, is_prepared=True)
    me, _ = worker.receive_view(me, third)
    me, reaction = worker.switch(worker.commit(me), second.id)
    assert reaction is Reaction.ENTER
    assert me.view == second


@pytest.mark.parametrize(
    ("votes", "agreed"),
    [
        ([3, 3, 3], 3),
        ([3, 3, 0], None),
        ([2, 4, 3], None),
        ([0, 0, 0], None),
        ([7], 7),
    ],
)
def test_only_equal_votes_agree(votes: list[int], agreed: int | None) -> None:
    cast = [Votes.of(ViewId(term=2, number=v) if v else None, v) for v in votes]
    names = Votes.__dataclass_fields__
    summed = Votes(**{name: sum(getattr(v, name) for v in cast) for name in names})
    expected = None if agreed is None else ViewId(term=2, number=agreed)
    assert summed.agreed_view(len(votes)) == expected
    assert summed.agreed_plan(len(votes)) == (agreed or 0)


def test_views_of_a_lower_term_are_ignored() -> None:
    me = worker.receive_term(stepping(view(1, "a", "b")), 2)
    _, reaction = worker.receive_view(me, view(9, "a", after=1))
    assert reaction is Reaction.NOTHING


def test_who_cannot_follow_a_view_says_so() -> None:
    me, reaction = worker.receive_view(stepping(view(1, "a", "b")), view(2, "a"))
    assert (me.mode, reaction) == (Mode.STOPPED, Reaction.REPORT)
    me, reaction = worker.receive_view(me, view(3, "a", "b", after=1))
    assert (me.mode, reaction) == (Mode.STOPPED, Reaction.REPORT)
    me, reaction = worker.receive_view(me, view(4, "a"))
    assert (me.mode, reaction) == (Mode.ENTERING, Reaction.ENTER)
