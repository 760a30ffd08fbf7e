"""A worker whose training thread hangs is left out once others have waited for it."""

from tests.unit.trainyard_trainer.membership.test_membership import Coordinator, running
from trainyard_trainer.contract.exits import Result
from trainyard_trainer.membership.events import Command, Disconnected, StateStored, Tick
from trainyard_trainer.membership.messages import (
    CollectState,
    Dismiss,
    Exclude,
    Fence,
    Finished,
    StopRequest,
)


def excluded(commands: list[Command]) -> dict[str, str]:
    return {to: message.reason for to, message in commands if isinstance(message, Exclude)}


def limit(coordinator: Coordinator) -> float:
    return coordinator.registry.stuck_seconds


def test_a_worker_that_does_not_stop_is_left_out_and_the_others_go_on() -> None:
    coordinator = running("a/0", "b/0", "c/0")
    coordinator.handle(Disconnected(member_id="b/0"))
    coordinator.handle(coordinator.stopped("c/0", 4))
    assert not coordinator.handle(Tick(), after=limit(coordinator) - 1)
    commands = coordinator.handle(Tick(), after=1.0)
    assert list(excluded(commands)) == ["a/0"]
    assert "a has stood still for 300 s" in excluded(commands)["a/0"]
    assert coordinator.members() == ("c/0",)
    assert coordinator.announced.after is None


def test_nobody_is_left_out_while_all_are_busy() -> None:
    coordinator = running("a/0", "b/0", "c/0")
    coordinator.handle(Disconnected(member_id="c/0"))
    assert coordinator.handle(Tick(), after=100 * limit(coordinator)) == []
    coordinator.handle(coordinator.stopped("a/0", 4))
    assert coordinator.handle(Tick(), after=limit(coordinator) - 1) == []
    coordinator.handle(coordinator.stopped("b/0", 4))
    assert coordinator.members() == ("a/0", "b/0")


def test_a_collective_that_stands_still_stops_all_but_the_worker_that_hangs() -> None:
    coordinator = running("a/0", "b/0", "c/0")
    commands = coordinator.handle(coordinator.stopped("b/0", 4))
    assert {to for to, message in commands if isinstance(message, StopRequest)} == {"a/0", "c/0"}
    coordinator.handle(coordinator.stopped("c/0", 4), after=1.0)
    assert list(excluded(coordinator.handle(Tick(), after=limit(coordinator)))) == ["a/0"]
    assert coordinator.members() == ("b/0", "c/0")


def test_ten_usual_steps_are_waited_for_where_they_are_longer() -> None:
    coordinator = running("a/0", "b/0")
    coordinator.handle(coordinator.stopped("b/0", 4))
    slow = Tick(usual_step_seconds=100.0)
    assert coordinator.handle(slow, after=999.0) == []
    assert list(excluded(coordinator.handle(slow, after=1.0))) == ["a/0"]


def test_the_only_worker_with_state_is_never_left_out() -> None:
    coordinator = running("a/0", desired=2)
    coordinator.join("b/0")
    coordinator.handle(coordinator.stopped("b/0", -1))
    coordinator.handle(Tick(), after=10 * limit(coordinator))
    assert "a/0" in coordinator.registry.members


def test_a_worker_that_hangs_after_the_last_iteration_does_not_keep_the_result() -> None:
    coordinator = running("a/0", "b/0")
    coordinator.handle(("a/0", Finished(result=Result.COMPLETE, progress=9, digest="x")))
    commands = coordinator.handle(Tick(), after=limit(coordinator))
    assert list(excluded(commands)) == ["b/0"]
    assert commands[-1] == ("a/0", CollectState(result=Result.COMPLETE))
    dismiss = Dismiss(result=Result.COMPLETE)
    assert coordinator.handle(StateStored(member_id="a/0")) == [("a/0", dismiss)]


def test_a_joiner_that_hangs_does_not_keep_the_others_from_recovering() -> None:
    coordinator = running("a/0", "b/0", desired=3)
    coordinator.join("c/0")
    coordinator.handle(Disconnected(member_id="b/0"))
    coordinator.handle(coordinator.stopped("a/0", 4))
    assert list(excluded(coordinator.handle(Tick(), after=limit(coordinator)))) == ["c/0"]
    assert coordinator.members() == ("a/0",)


def test_a_worker_that_was_left_out_and_connects_again_is_fenced() -> None:
    coordinator = running("a/0", "b/0")
    view = coordinator.registry.view
    coordinator.handle(coordinator.stopped("b/0", 4))
    coordinator.handle(Tick(), after=limit(coordinator))
    assert coordinator.rejoin("a/0", view, progress=4) == [("a/0", Fence())]


def test_a_first_view_with_a_worker_that_hangs_gives_way_to_one_that_answers() -> None:
    coordinator = Coordinator(desired=2)
    coordinator.join("a/0", "b/0")
    coordinator.handle(coordinator.stopped("b/0", -1))
    assert coordinator.members() == ("b/0", "a/0")
    coordinator.handle(coordinator.stopped("b/0", -1))
    assert coordinator.members() == ("b/0",)
