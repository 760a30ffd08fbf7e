"""Workers that cannot take part are left out by name, and cost the others nothing."""

from tests.unit.trainyard_trainer.membership.test_membership import Coordinator, running
from trainyard_trainer.membership.decisions import JOIN_WINDOW_SECONDS
from trainyard_trainer.membership.events import Command, Tick
from trainyard_trainer.membership.messages import (
    BuildFailed,
    Exclude,
    Fence,
    Hello,
    LeaveRequest,
    Ready,
    StopRequest,
    Unfit,
)
from trainyard_trainer.membership.views import MemberAddress

SMALL = ("203 samples in train_data", "the tensor weight (float32 [2, 3])")
LARGE = ("203 samples in train_data", "the tensor weight (float32 [2, 4])")


def join(coordinator: Coordinator, name: str, layout: tuple[str, ...]) -> list[Command]:
    hello = Hello(address=MemberAddress(member_id=name))
    return coordinator.handle((name, hello), (name, Ready(layout=layout)))


def training(layout: tuple[str, ...], desired: int) -> Coordinator:
    coordinator = Coordinator(desired)
    join(coordinator, "a/0", layout)
    coordinator.handle(Tick(), after=10.0)
    coordinator.enter()
    return coordinator


def fail_to_build(coordinator: Coordinator, name: str) -> list[Command]:
    """A member reports that it cannot prepare the view announced last."""
    return coordinator.handle((name, BuildFailed(view=coordinator.announced.id, reason="refused")))


def excluded(commands: list[Command]) -> dict[str, str]:
    return {to: message.reason for to, message in commands if isinstance(message, Exclude)}


def test_a_joiner_of_another_layout_is_left_out_by_name_before_a_view_with_it() -> None:
    coordinator = training(SMALL, desired=2)
    reasons = excluded(join(coordinator, "b/0", LARGE))
    assert list(reasons) == ["b/0"]
    assert "b differs from the other workers" in reasons["b/0"]
    assert "it has the tensor weight (float32 [2, 4])" in reasons["b/0"]
    assert "they have the tensor weight (float32 [2, 3])" in reasons["b/0"]
    assert not coordinator.handle(Tick(), after=2 * JOIN_WINDOW_SECONDS)
    assert coordinator.members() == ("a/0",)


def test_a_joiner_of_the_same_layout_is_admitted() -> None:
    coordinator = training(SMALL, desired=2)
    assert not excluded(join(coordinator, "b/0", SMALL))
    assert coordinator.members() == ("a/0", "b/0")


def test_the_layout_of_most_workers_counts_where_nobody_trains_yet() -> None:
    coordinator = Coordinator(3, minimum=2)
    join(coordinator, "a/0", LARGE)
    join(coordinator, "b/0", SMALL)
    assert list(excluded(join(coordinator, "c/0", SMALL))) == ["a/0"]
    coordinator.handle(Tick(), after=10.0)
    assert coordinator.members() == ("b/0", "c/0")


def test_a_joiner_that_cannot_take_part_is_at_fault_alone_while_others_train() -> None:
    coordinator = running("a/0", desired=2)
    coordinator.handle(("b/0", Hello(address=MemberAddress(member_id="b/0"))))
    commands = coordinator.handle(("b/0", Unfit(reason="out of memory")))
    assert commands == [("b/0", Exclude(reason="out of memory", is_own_fault=True))]
    assert list(coordinator.registry.members) == ["a/0"]


def test_a_worker_that_cannot_take_part_is_not_alone_at_fault_while_nobody_trains() -> None:
    coordinator = Coordinator(2)
    coordinator.handle(("a/0", Hello(address=MemberAddress(member_id="a/0"))))
    commands = coordinator.handle(("a/0", Unfit(reason="no such task")))
    assert commands == [("a/0", Exclude(reason="no such task", is_own_fault=False))]


def test_a_joiner_that_cannot_take_part_does_not_stop_those_it_would_have_joined() -> None:
    coordinator = running("a/0", desired=3)
    for name in ("b/0", "c/0"):
        coordinator.join(name)
    assert coordinator.members() == ("a/0", "b/0", "c/0")
    commands = coordinator.handle(("b/0", Unfit(reason="out of memory")))
    assert not [message for _, message in commands if isinstance(message, StopRequest)]
    coordinator.enter(1)
    coordinator.handle(Tick(), after=2 * JOIN_WINDOW_SECONDS)
    assert coordinator.members() == ("a/0", "c/0")


def test_an_unreachable_joiner_stops_nobody_and_is_left_out_after_two_attempts() -> None:
    coordinator = running("a/0", desired=2)
    coordinator.join("b/0")
    commands = coordinator.handle(coordinator.stopped("b/0", -1))
    assert coordinator.members() == ("a/0", "b/0")
    commands += coordinator.handle(coordinator.stopped("b/0", -1))
    assert "cannot connect to each other" in excluded(commands)["b/0"]
    assert not [message for _, message in commands if isinstance(message, StopRequest)]
    assert coordinator.members() == ("a/0",)


def test_a_joiner_that_was_called_with_an_unreachable_one_is_admitted() -> None:
    coordinator = running("a/0", desired=3)
    coordinator.join("b/0")
    coordinator.join("c/0")
    coordinator.handle(coordinator.stopped("b/0", -1))
    assert coordinator.members() == ("a/0", "b/0")
    assert list(excluded(coordinator.handle(coordinator.stopped("b/0", -1)))) == ["b/0"]
    assert coordinator.members() == ("a/0", "c/0")
    coordinator.enter(1)
    assert not coordinator.registry.failed_joins


def test_survivors_that_cannot_connect_to_each_other_join_the_furthest() -> None:
    coordinator = running("a/0", "b/0")
    for _ in range(3):
        coordinator.handle(coordinator.stopped("a/0", 4))
        commands = coordinator.handle(coordinator.stopped("b/0", 5))
    assert [to for to, message in commands if isinstance(message, Fence)] == ["a/0"]
    assert coordinator.members() == ("b/0",)


def test_a_joiner_that_only_the_others_fail_to_reach_is_left_out_after_two_attempts() -> None:
    coordinator = running("a/0", desired=2)
    coordinator.join("b/0")
    commands = fail_to_build(coordinator, "a/0")
    assert coordinator.members() == ("a/0", "b/0")
    commands += fail_to_build(coordinator, "a/0")
    assert "cannot connect to each other" in excluded(commands)["b/0"]
    assert not [message for _, message in commands if isinstance(message, StopRequest)]
    coordinator.join("c/0")
    assert coordinator.members() == ("a/0", "c/0")


def test_a_view_that_was_given_up_is_not_counted_when_the_others_report_it_too() -> None:
    coordinator = running("a/0", "b/0", desired=4)
    coordinator.join("c/0", "d/0")
    given_up = coordinator.announced.id
    fail_to_build(coordinator, "a/0")
    late = BuildFailed(view=given_up, reason="timed out")
    assert coordinator.handle(("b/0", late), coordinator.stopped("d/0", -1)) == []
    assert coordinator.registry.failed_joins == {"c": 1, "d": 1}


def test_a_switch_without_joiners_that_cannot_be_prepared_is_made_by_a_stop() -> None:
    coordinator = running("a/0", "b/0", "c/0")
    coordinator.handle(("c/0", LeaveRequest()))
    commands = fail_to_build(coordinator, "a/0")
    assert {to for to, message in commands if isinstance(message, StopRequest)} == {
        "a/0",
        "b/0",
        "c/0",
    }
    coordinator.handle(*(coordinator.stopped(name, 4) for name in ("a/0", "b/0", "c/0")))
    assert coordinator.members() == ("a/0", "b/0")
    assert coordinator.announced.after is None
    coordinator.enter(4)
    assert not coordinator.registry.is_broken
