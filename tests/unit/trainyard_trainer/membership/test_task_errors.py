"""Whose fault an error of the user's code is, and what becomes of the state before it."""

from msgspec import structs

from tests.unit.trainyard_trainer.membership.test_membership import Coordinator, running
from trainyard_trainer.contract.exits import Result
from trainyard_trainer.contract.plan import Plan
from trainyard_trainer.membership.events import Command, Disconnected, StateStored, Tick
from trainyard_trainer.membership.messages import (
    CollectState,
    Dismiss,
    Hello,
    StopRequest,
    TaskRaised,
)
from trainyard_trainer.membership.views import MemberAddress

COLLECT_FAILED = CollectState(result=Result.FAILED)
COLLECT_LEFT = CollectState(result=Result.LEFT)
LEFT = Dismiss(result=Result.LEFT)


def raises(first: int, end: int, iteration: int = 7) -> TaskRaised:
    return TaskRaised(
        iteration=iteration,
        first=first,
        end=end,
        samples=tuple(range(100 + first, 100 + end)),
        data="train_data",
        reason="the task raised ValueError: bad pixel",
    )


def recover(coordinator: Coordinator, *names: str, progress: int = 7) -> None:
    """The survivors stop, and enter the view that follows."""
    coordinator.handle(*(coordinator.stopped(name, progress) for name in names))
    assert coordinator.announced.member_ids == names
    coordinator.enter(progress)


def dismissals(commands: list[Command]) -> dict[str, Dismiss]:
    return {to: message for to, message in commands if isinstance(message, Dismiss)}


def after_a_raised(*names: str) -> Coordinator:
    """The task has raised on a, at the positions 0 to 7, and the others go on."""
    coordinator = running("a/0", *names)
    commands = coordinator.handle(("a/0", raises(0, 8)))
    assert dismissals(commands) == {"a/0": LEFT}
    assert {to for to, message in commands if isinstance(message, StopRequest)} == set(names)
    recover(coordinator, *names)
    return coordinator


def test_the_same_samples_on_a_second_worker_fail_the_job_and_keep_the_state() -> None:
    coordinator = after_a_raised("b/0", "c/0")
    assert coordinator.handle(("b/0", raises(0, 12))) == [("b/0", COLLECT_FAILED)]
    dismissed = dismissals(coordinator.handle(StateStored(member_id="b/0")))
    assert list(dismissed) == ["b/0", "c/0"]
    assert {message.result for message in dismissed.values()} == {Result.FAILED}
    assert dismissed["b/0"].reason == (
        "the task raised ValueError: bad pixel. It raised on b, and before on a, on the same "
        "samples of train_data in iteration 7: 100, 101, 102, 103, 104, 105, 106, 107. "
        "The state before it is kept"
    )


def test_a_failed_job_stays_failed_whoever_connects_and_whatever_is_planned() -> None:
    coordinator = after_a_raised("b/0")
    coordinator.handle(("b/0", raises(0, 16)), StateStored(member_id="b/0"))
    coordinator.handle(Plan(generation=9, workers=2))
    commands = coordinator.handle(("d/0", Hello(address=MemberAddress(member_id="d/0"))))
    assert dismissals(commands)["d/0"].result is Result.FAILED
    assert "bad pixel" in dismissals(commands)["d/0"].reason


def test_other_samples_on_a_second_worker_do_not_fail_the_job() -> None:
    coordinator = after_a_raised("b/0", "c/0")
    assert dismissals(coordinator.handle(("b/0", raises(8, 16)))) == {"b/0": LEFT}
    assert coordinator.registry.result is None


def test_another_iteration_does_not_fail_the_job() -> None:
    coordinator = after_a_raised("b/0", "c/0")
    assert dismissals(coordinator.handle(("b/0", raises(0, 8, iteration=8)))) == {"b/0": LEFT}


def test_errors_without_samples_such_as_of_memory_do_not_fail_the_job() -> None:
    coordinator = after_a_raised("b/0", "c/0")
    assert dismissals(coordinator.handle(("b/0", raises(0, 0)))) == {"b/0": LEFT}


def test_each_of_two_errors_in_one_iteration_is_remembered() -> None:
    coordinator = running("a/0", "b/0", "c/0")
    coordinator.handle(("a/0", raises(0, 4)), ("b/0", raises(4, 8)))
    recover(coordinator, "c/0")
    assert coordinator.handle(("c/0", raises(0, 12))) == [("c/0", COLLECT_FAILED)]


def test_a_worker_that_raises_with_the_only_state_hands_it_over() -> None:
    coordinator = running("a/0", desired=1)
    assert coordinator.handle(("a/0", raises(0, 8))) == [("a/0", COLLECT_LEFT)]
    assert coordinator.handle(StateStored(member_id="a/0")) == [("a/0", LEFT)]
    coordinator.join("b/0")
    coordinator.handle(Tick(), after=10.0)
    assert coordinator.announced.initial
    coordinator.enter(7)
    # A new process may not fail; how often it is tried is the job's `maxRestarts`.
    assert coordinator.handle(("b/0", raises(0, 8))) == [("b/0", COLLECT_LEFT)]


def test_a_state_that_was_not_handed_over_is_collected_from_the_next() -> None:
    coordinator = after_a_raised("b/0", "c/0")
    coordinator.handle(("b/0", raises(0, 12)), Disconnected(member_id="b/0"))
    recover(coordinator, "c/0")
    assert coordinator.handle(("c/0", raises(0, 16))) == [("c/0", COLLECT_FAILED)]


def test_a_later_coordinator_collects_what_the_first_one_did_not() -> None:
    first = running("a/0")
    later = Coordinator(desired=1, term=2)
    hello = Hello(
        address=MemberAddress(member_id="a/0"),
        ready=True,
        announced=first.announced.id,
        state_view=first.announced,
        progress=7,
        raised=raises(0, 8),
    )
    assert later.handle(("a/0", hello)) == [("a/0", COLLECT_LEFT)]
    again = structs.replace(hello, term=2)
    later.handle(Disconnected(member_id="a/0"))
    assert later.handle(("a/0", again)) == [("a/0", COLLECT_LEFT)]


def test_a_sentence_names_only_some_of_many_samples() -> None:
    coordinator = running("a/0", "b/0")
    coordinator.handle(("a/0", raises(0, 1000)))
    recover(coordinator, "b/0")
    coordinator.handle(("b/0", raises(0, 2000)))
    assert "118, 119 and 980 more." in coordinator.registry.failure
