"""Decisions of the membership protocol, one history each; the checker walks the rest."""

import pytest

from trainyard_trainer.contract.exits import Result
from trainyard_trainer.contract.plan import Plan
from trainyard_trainer.membership import participant as protocol
from trainyard_trainer.membership.decisions import START_WINDOW_SECONDS, step
from trainyard_trainer.membership.events import Command, Disconnected, Event, StateStored, Tick
from trainyard_trainer.membership.messages import (
    CollectState,
    Dismiss,
    Fence,
    Finished,
    Goodbye,
    Hello,
    LeaveRequest,
    Ready,
    Stopped,
    StopRequest,
    ViewAnnouncement,
    ViewEntered,
)
from trainyard_trainer.membership.participant import (
    Participant,
    ParticipantPhase,
    ViewAction,
    Votes,
)
from trainyard_trainer.membership.registry import Registry
from trainyard_trainer.membership.views import MemberAddress, View, ViewId


class Coordinator:
    """A registry, its clock and the commands it has given."""

    def __init__(
        self, desired: int, minimum: int = 1, term: int = 1, rejoin_deadline: float | None = None
    ) -> None:
        self.registry = Registry(
            term=term,
            minimum=minimum,
            desired=desired,
            rejoin_seconds=10.0,
            rejoin_deadline=rejoin_deadline,
        )
        self.now = 0.0
        self.commands: list[Command] = []

    def handle(self, *events: Event, after: float = 0.0) -> list[Command]:
        """The commands upon these events."""
        self.now += after
        commands: list[Command] = []
        for event in events:
            self.registry, more = step(self.registry, event, self.now)
            commands += more
        self.commands += commands
        return commands

    def members(self) -> tuple[str, ...]:
        """The members of the view announced last."""
        return self.announced.member_ids

    @property
    def announced(self) -> View:
        messages = [message for _, message in self.commands]
        return [m.view for m in messages if isinstance(m, ViewAnnouncement)][-1]

    def join(self, *names: str) -> None:
        for name in names:
            address = MemberAddress(member_id=name)
            self.handle((name, Hello(address=address)), (name, Ready()))

    def rejoin(self, name: str, view: View | None, progress: int) -> list[Command]:
        """A worker with the state of `view` connects again."""
        hello = Hello(
            address=MemberAddress(member_id=name),
            ready=True,
            announced=view.id if view is not None else None,
            state_view=view,
            progress=progress,
        )
        return self.handle((name, hello))

    def enter(self, progress: int = 0) -> None:
        """All members enter the view announced last."""
        view = self.announced
        for name in view.member_ids:
            self.handle((name, ViewEntered(view=view, progress=progress)))

    def stopped(self, name: str, progress: int, digest: str = "") -> tuple[str, Stopped]:
        member = self.registry.members[name]
        message = Stopped(
            announced=member.announced,
            state_view=member.state_view,
            progress=progress,
            digest=digest,
        )
        return name, message


def running(*names: str, desired: int = 0) -> Coordinator:
    """A coordinator whose first view has been entered."""
    coordinator = Coordinator(desired or len(names), minimum=len(names))
    coordinator.join(*names)
    coordinator.handle(Tick(), after=START_WINDOW_SECONDS)
    coordinator.enter()
    return coordinator


def test_the_first_view_waits_for_the_plan_then_for_the_minimum() -> None:
    coordinator = Coordinator(desired=3, minimum=2)
    coordinator.join("a")
    assert coordinator.handle(Tick(), after=100.0) == []
    coordinator.join("b")
    assert coordinator.handle(Tick(), after=START_WINDOW_SECONDS / 2) == []
    coordinator.handle(Tick(), after=START_WINDOW_SECONDS)
    assert coordinator.members() == ("a", "b")
    assert coordinator.announced.initial


def test_the_first_view_forms_at_once_when_all_are_there() -> None:
    coordinator = Coordinator(desired=2)
    coordinator.join("a", "b")
    assert coordinator.members() == ("a", "b")


def test_joiners_are_batched_up_to_the_plan() -> None:
    coordinator = running("a", desired=3)
    coordinator.join("b")
    assert coordinator.members() == ("a",)
    coordinator.join("c", "d")
    assert coordinator.members() == ("a", "b", "c")
    assert coordinator.announced.transfer
    assert coordinator.announced.after is not None


def test_a_leaver_is_released_without_a_transfer() -> None:
    coordinator = running("a", "b")
    coordinator.handle(("a", LeaveRequest()))
    assert coordinator.members() == ("b",)
    assert not coordinator.announced.transfer


def test_leavers_hand_their_state_to_a_joiner_if_no_worker_stays() -> None:
    coordinator = running("a", desired=2)
    coordinator.join("b")
    coordinator.handle(("a", LeaveRequest()))
    assert coordinator.members() == ("a", "b")
    assert coordinator.handle(Tick(), Tick(), after=1.0) == []  # Announced once, not over and over.
    coordinator.enter(3)
    assert coordinator.members() == ("b",)


def test_the_state_of_the_last_to_leave_is_collected() -> None:
    coordinator = running("a")
    assert coordinator.handle(("a", LeaveRequest())) == [("a", StopRequest())]
    commands = coordinator.handle(coordinator.stopped("a", 5))
    assert commands == [("a", CollectState(result=Result.LEFT))]
    commands = coordinator.handle(StateStored(member_id="a"))
    assert commands == [("a", Dismiss(result=Result.LEFT))]
    coordinator.join("b")
    coordinator.handle(Tick(), after=START_WINDOW_SECONDS)
    assert coordinator.announced.initial


def test_survivors_adopt_the_state_of_the_furthest() -> None:
    coordinator = running("a", "b", "c")
    assert set(coordinator.handle(Disconnected(member_id="c"))) == {
        ("a", StopRequest()),
        ("b", StopRequest()),
    }
    coordinator.handle(coordinator.stopped("a", 6, "x"))
    coordinator.handle(coordinator.stopped("b", 7, "y"))
    view = coordinator.announced
    assert (view.member_ids, view.source, view.transfer) == (("a", "b"), "b", True)
    assert view.after is None


def test_equal_survivors_need_no_transfer() -> None:
    coordinator = running("a", "b", "c")
    coordinator.handle(Disconnected(member_id="c"))
    coordinator.handle(coordinator.stopped("a", 6, "x"), coordinator.stopped("b", 6, "x"))
    assert not coordinator.announced.transfer


def test_a_stop_from_before_the_newest_announcement_is_ignored() -> None:
    coordinator = running("a", "b", "c")
    late = coordinator.stopped("a", 6)
    coordinator.handle(Disconnected(member_id="c"))
    coordinator.handle(coordinator.stopped("a", 6), coordinator.stopped("b", 6))
    coordinator.enter(6)
    assert coordinator.handle(late) == []


def test_a_member_left_out_by_a_switch_does_not_break_the_view_it_left_for() -> None:
    coordinator = running("a", "b")
    coordinator.handle(("b", LeaveRequest()))
    planned = coordinator.announced
    goodbye = ("b", Goodbye(left_for=planned.id))
    assert coordinator.handle(goodbye, Disconnected(member_id="b")) == []
    assert coordinator.registry.view == planned


def test_a_leaver_that_dies_before_the_switch_breaks_its_view() -> None:
    coordinator = running("a", "b")
    coordinator.handle(("b", LeaveRequest()))
    assert coordinator.handle(Disconnected(member_id="b")) == [("a", StopRequest())]


def test_a_member_that_rejoins_after_the_recovery_is_fenced() -> None:
    coordinator = running("a", "b", "c")
    view = coordinator.registry.view
    coordinator.handle(Disconnected(member_id="c"))
    coordinator.handle(coordinator.stopped("a", 6), coordinator.stopped("b", 6))
    assert coordinator.rejoin("c", view, progress=7) == [("c", Fence())]


def test_a_member_that_rejoins_in_time_takes_part_in_the_recovery() -> None:
    coordinator = running("a", "b")
    view = coordinator.registry.view
    coordinator.handle(Disconnected(member_id="b"))
    assert coordinator.rejoin("b", view, progress=7) == [("b", StopRequest())]


def test_the_only_worker_with_state_is_awaited_before_starting_afresh() -> None:
    coordinator = running("a", desired=2)
    view = coordinator.registry.view
    coordinator.handle(Disconnected(member_id="a"))
    coordinator.join("b", "c")
    assert coordinator.handle(Tick(), after=5.0) == []
    coordinator.rejoin("a", view, progress=9)
    assert coordinator.registry.view == view
    assert not coordinator.announced.initial


def test_training_starts_afresh_when_the_only_worker_with_state_stays_away() -> None:
    coordinator = running("a", desired=1)
    coordinator.handle(Disconnected(member_id="a"))
    coordinator.join("b")
    coordinator.handle(Tick(), after=20.0)
    assert coordinator.members() == ("b",)
    assert coordinator.announced.initial


def test_a_later_coordinator_learns_the_view_from_its_members() -> None:
    first = running("a", "b")
    later = Coordinator(desired=2, term=2, rejoin_deadline=10.0)
    for name in ("a", "b"):
        assert later.rejoin(name, first.registry.view, progress=0) == []
    assert later.registry.view == first.registry.view
    later.handle(Plan(generation=2, workers=3))
    later.join("c")
    assert later.announced.id == ViewId(term=2, number=2)


def test_a_state_that_a_lost_worker_was_to_upload_is_collected_from_another() -> None:
    coordinator = running("a", "b")
    finished = Finished(result=Result.COMPLETE, progress=9, digest="x")
    collect, dismiss = CollectState(result=Result.COMPLETE), Dismiss(result=Result.COMPLETE)
    coordinator.handle(("a", finished))
    assert coordinator.handle(("b", finished)) == [("a", collect)]
    assert coordinator.handle(Disconnected(member_id="a")) == [("b", collect)]
    assert coordinator.handle(StateStored(member_id="b")) == [("b", dismiss)]


def test_a_job_suspended_before_it_began_dismisses_its_workers() -> None:
    coordinator = Coordinator(desired=2)
    coordinator.handle(Plan(generation=1, workers=0, suspend=True))
    coordinator.handle(("a", Hello(address=MemberAddress(member_id="a"))))
    assert coordinator.commands == [("a", Dismiss(result=Result.SUSPENDED))]
    coordinator.handle(Plan(generation=2, workers=1))
    coordinator.join("b")
    assert coordinator.members() == ("b",)


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
    me = Participant(
        member_id="a", view=in_view, phase=ParticipantPhase.ENTERING, term=1, announced=in_view.id
    )
    return protocol.begin(me, 4)


def test_a_switch_goes_to_the_view_voted_for_and_not_to_a_newer_one() -> None:
    me = stepping(view(1, "a", "b"))
    second, third = view(2, "a", "b", "c", after=1), view(3, "a", "b", after=1)
    me, _ = protocol.receive_view(me, second)
    me = protocol.vote(me, is_prepared=True)
    me, _ = protocol.receive_view(me, third)
    me, action = protocol.switch(protocol.commit(me), second.id)
    assert action is ViewAction.ENTER
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
    ballots = [Votes.of(ViewId(term=2, number=v) if v else None, v) for v in votes]
    names = Votes.__dataclass_fields__
    summed = Votes(**{name: sum(getattr(v, name) for v in ballots) for name in names})
    expected = None if agreed is None else ViewId(term=2, number=agreed)
    assert summed.agreed_view(len(votes)) == expected
    assert summed.agreed_plan(len(votes)) == (agreed or 0)


def test_views_of_a_lower_term_are_ignored() -> None:
    me = protocol.receive_term(stepping(view(1, "a", "b")), 2)
    _, action = protocol.receive_view(me, view(9, "a", after=1))
    assert action is ViewAction.NONE


def test_a_worker_that_cannot_follow_a_view_stops_and_reports_it() -> None:
    me, action = protocol.receive_view(stepping(view(1, "a", "b")), view(2, "a"))
    assert (me.phase, action) == (ParticipantPhase.STOPPED, ViewAction.STOP)
    me, action = protocol.receive_view(me, view(3, "a", "b", after=1))
    assert (me.phase, action) == (ParticipantPhase.STOPPED, ViewAction.STOP)
    me, action = protocol.receive_view(me, view(4, "a"))
    assert (me.phase, action) == (ParticipantPhase.ENTERING, ViewAction.ENTER)
