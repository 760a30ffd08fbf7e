"""The course of rounds: what closes one, what gives one up, what ends them."""

import math
from typing import Any

import pytest

from trainyard_trainer.contract.config import Direction, Target
from trainyard_trainer.contract.exits import Result
from trainyard_trainer.contract.federated import PartyState, RoundsConfig
from trainyard_trainer.federated.rounds.events import (
    AbandonRound,
    AcceptedUpdate,
    Aggregate,
    Command,
    Evaluation,
    Finish,
    Initialize,
    Instruction,
    KeepBest,
    OpenRound,
    RoundPhase,
    RoundSettings,
    mean,
    shuffled,
)
from trainyard_trainer.federated.rounds.machine import GATHER_SECONDS, RoundMachine

TARGET = Target(metric="eval/accuracy", value=0.9)


def terms(names: str, **rounds: Any) -> RoundSettings:
    asked = {"max": 5, "min_parties": 2, "deadline_seconds": 100.0, **rounds}
    return RoundSettings(
        rounds=RoundsConfig(**asked), parties=tuple(names), expected=frozenset(names)
    )


def started(names: str = "abc", target: Target | None = None, **rounds: Any) -> RoundMachine:
    """A course whose first round is open, and to which all parties belong."""
    course = RoundMachine(terms=terms(names, **rounds), target=target)
    for name in names:
        course.joined(name, 0.0)
    assert course.accepted("a", delivery(), 0.0) == [Initialize(party="a")]
    assert store(course, 0.0) == [OpenRound(round=1)]
    return course


def delivery(**values: Any) -> AcceptedUpdate:
    return AcceptedUpdate(**{"samples": 10, "weight": 10.0, "loss": 1.0, **values})


def deliver(course: RoundMachine, names: str, now: float, **values: Any) -> list[Command]:
    return [c for name in names for c in course.accepted(name, delivery(**values), now)]


def store(course: RoundMachine, now: float) -> list[Command]:
    return course.stored(course.outcome(now), now)


def evaluate(course: RoundMachine, names: str, value: float, now: float = 0.0) -> list[Command]:
    found = Evaluation(samples=5, metrics={"eval/accuracy": value})
    number = course.record.round
    return [c for name in names for c in course.evaluate(name, number, found, now)]


def test_the_first_round_waits_for_all_who_are_expected() -> None:
    course = RoundMachine(terms=terms("abc"))
    assert course.joined("b", 0.0) == []
    assert course.joined("c", 1.0) == []
    assert course.wakes_at(1.0) == 1.0 + GATHER_SECONDS
    assert course.joined("a", 2.0) == [OpenRound(round=0)]
    assert [course.instruction(name) for name in "abc"] == [
        Instruction.INITIAL,
        Instruction.WAIT,
        Instruction.WAIT,
    ]


def test_the_first_round_does_not_wait_for_ever_for_one() -> None:
    course = RoundMachine(terms=terms("abc"))
    course.joined("b", 0.0)
    course.joined("c", 1.0)
    assert course.tick(1.0 + GATHER_SECONDS - 0.1) == []
    assert course.tick(1.0 + GATHER_SECONDS) == [OpenRound(round=0)]
    assert course.instruction("b") is Instruction.INITIAL


def test_without_a_quorum_nothing_begins() -> None:
    course = RoundMachine(terms=terms("abc", min_parties=2))
    course.joined("a", 0.0)
    assert course.tick(1e9) == []
    assert course.phase is RoundPhase.WAITING


def test_a_stranger_is_nobody() -> None:
    course = started()
    assert course.joined("x", 0.0) == []
    assert course.instruction("x") is Instruction.WAIT
    assert course.accepted("x", delivery(), 0.0) == []
    assert "x" not in course.accepted_updates


def test_another_is_asked_for_the_initial_model_when_the_first_leaves_or_is_refused() -> None:
    course = RoundMachine(terms=terms("abc"))
    for name in "abc":
        course.joined(name, 0.0)
    assert course.left("a", 1.0) == [OpenRound(round=0)]
    assert course.instruction("b") is Instruction.INITIAL
    assert course.refuse("b", 2.0) == [OpenRound(round=0)]
    assert course.instruction("c") is Instruction.INITIAL
    assert course.deadline == 100.0
    assert course.tick(100.0)[0] == AbandonRound(round=0, had=0)
    assert course.lost == 1


def test_a_round_closes_when_all_have_answered() -> None:
    course = started()
    assert deliver(course, "ab", 5.0) == []
    assert course.refuse("c", 6.0) == [Aggregate(round=1, parties=("a", "b"))]
    assert course.state_of("c") is PartyState.REFUSED
    assert store(course, 8.0) == [OpenRound(round=2)]
    assert course.record.last.seconds == 8.0
    assert course.record.contributors == ("a", "b")
    assert course.record.contributions == {"a": 1, "b": 1}
    assert [course.instruction(name) for name in "abc"] == [Instruction.TRAIN] * 3


def test_a_round_closes_at_its_deadline_with_a_quorum() -> None:
    course = started()
    deliver(course, "ab", 5.0)
    assert course.tick(99.9) == []
    assert course.wakes_at(99.9) == 100.0
    assert course.tick(100.0) == [Aggregate(round=1, parties=("a", "b"))]
    assert store(course, 101.0) == [OpenRound(round=2)]
    assert course.instruction("c") is Instruction.WAIT, (
        "who has not answered must show that it is there"
    )
    course.joined("c", 102.0)
    assert course.instruction("c") is Instruction.TRAIN


def test_a_round_without_a_quorum_is_given_up_and_announced_anew() -> None:
    course = started()
    deliver(course, "a", 5.0)
    assert course.tick(100.0) == [AbandonRound(round=1, had=1)]
    assert (course.lost, course.phase, course.record.round) == (1, RoundPhase.WAITING, 0)
    assert course.joined("b", 130.0) == [OpenRound(round=1)]
    assert course.deadline == 230.0
    assert [course.instruction(name) for name in "abc"] == [
        Instruction.WAIT,
        Instruction.TRAIN,
        Instruction.WAIT,
    ]
    assert deliver(course, "b", 140.0) == [Aggregate(round=1, parties=("a", "b"))]


def test_a_party_that_says_goodbye_is_not_waited_for() -> None:
    course = started()
    deliver(course, "ab", 5.0)
    assert course.left("c", 6.0) == [Aggregate(round=1, parties=("a", "b"))]


def test_a_party_that_comes_back_within_a_round_is_asked_again() -> None:
    course = started()
    deliver(course, "a", 5.0)
    course.left("c", 6.0)
    course.joined("c", 7.0)
    assert course.instruction("c") is Instruction.TRAIN
    deliver(course, "b", 8.0)
    assert course.phase is RoundPhase.OPEN
    assert deliver(course, "c", 9.0) == [Aggregate(round=1, parties=("a", "b", "c"))]


def test_below_the_quorum_a_refusal_does_not_close_a_round() -> None:
    course = started("ab")
    deliver(course, "a", 5.0)
    assert course.refuse("b", 6.0) == []
    assert course.tick(100.0)[0] == AbandonRound(round=1, had=1)
    assert course.instruction("b") is Instruction.TRAIN, "and it may try again"


def test_an_update_counts_once() -> None:
    course = started()
    deliver(course, "aab", 5.0)
    course.refuse("a", 6.0)
    assert course.state_of("a") is PartyState.DELIVERED
    assert deliver(course, "c", 7.0) == [Aggregate(round=1, parties=("a", "b", "c"))]
    assert deliver(course, "abc", 8.0) == []
    assert store(course, 9.0) == [OpenRound(round=2)]
    assert store(course, 9.0) == [], "nothing is being stored any more"
    assert course.record.round == 1


def test_a_fraction_is_asked_and_who_leaves_is_replaced() -> None:
    course = started("abcdefgh", fraction=0.5)
    asked = {name for name in "abcdefgh" if course.instruction(name) is Instruction.TRAIN}
    assert asked == set(shuffled("abcdefgh", 0, 1)[:4])
    course.left(min(asked), 1.0)
    others = {name for name in "abcdefgh" if course.instruction(name) is Instruction.TRAIN}
    # Half of seven is four.
    assert len(others) == 4
    assert min(asked) not in others


def test_the_quorum_is_asked_however_small_the_fraction() -> None:
    course = started("abcdefgh", fraction=0.01, min_parties=3)
    assert sum(course.instruction(name) is Instruction.TRAIN for name in "abcdefgh") == 3


def test_rounds_draw_different_parties() -> None:
    draws = {tuple(sorted(shuffled("abcdefgh", 3, number)[:4])) for number in range(20)}
    assert len(draws) > 5
    assert shuffled("hgfedcba", 3, 1) == shuffled("abcdefgh", 3, 1)


def test_the_last_round_is_evaluated_before_the_end() -> None:
    course = started("ab", max=1)
    deliver(course, "ab", 5.0)
    assert store(course, 6.0) == [OpenRound(round=2)]
    assert course.phase is RoundPhase.FINAL
    assert course.instruction("a") is Instruction.EVALUATE
    assert evaluate(course, "a", 0.5) == []
    assert course.instruction("a") is Instruction.WAIT
    assert evaluate(course, "b", 0.7) == [Finish(round=1)]
    assert course.record.last.metrics == {"eval/accuracy": 0.6}
    course.finished(8.0)
    assert (course.result, course.instruction("a")) == (Result.COMPLETE, Instruction.END)


def test_the_last_evaluation_is_waited_for_only_so_long() -> None:
    course = started("ab", max=1)
    deliver(course, "ab", 5.0)
    store(course, 6.0)
    evaluate(course, "a", 0.5)
    assert course.tick(106.0) == [Finish(round=1)]


def test_at_the_target_nothing_more_is_folded() -> None:
    course = started("ab", target=TARGET)
    assert evaluate(course, "ab", 0.1) == [KeepBest(round=0)]
    deliver(course, "ab", 5.0)
    store(course, 6.0)
    deliver(course, "a", 7.0)
    assert evaluate(course, "ab", 0.95, 8.0) == [KeepBest(round=1), Finish(round=1)]
    assert deliver(course, "b", 9.0) == []
    assert course.lost == 0


def test_evaluations_that_are_there_at_the_close_decide_before_the_fold() -> None:
    course = started("ab", target=TARGET)
    evaluate(course, "a", 0.95)
    assert deliver(course, "ab", 5.0) == [KeepBest(round=0), Finish(round=0)]


def test_the_best_model_is_the_result() -> None:
    course = started("ab", target=TARGET, patience=2)
    commands = evaluate(course, "ab", 0.1)
    for value in (0.8, 0.5, 0.6):
        deliver(course, "ab", 5.0)
        store(course, 6.0)
        commands += evaluate(course, "ab", value)
    assert commands == [KeepBest(round=0), KeepBest(round=1), Finish(round=1)]
    assert course.record.round == 3


def test_a_falling_metric_can_be_the_target() -> None:
    course = started(
        "ab", target=Target(metric="eval/accuracy", value=0.1, direction=Direction.MIN)
    )
    assert evaluate(course, "ab", 0.2) == [KeepBest(round=0)]
    deliver(course, "ab", 5.0)
    store(course, 6.0)
    assert evaluate(course, "ab", 0.3) == []
    deliver(course, "ab", 7.0)
    store(course, 8.0)
    assert evaluate(course, "ab", 0.1) == [KeepBest(round=2), Finish(round=2)]


def test_without_a_target_patience_goes_by_the_loss() -> None:
    course = started("ab", patience=2, max=50)
    for loss in (1.0, 0.5, 0.6, 0.5):
        assert course.phase is RoundPhase.OPEN
        deliver(course, "ab", 5.0, loss=loss)
        store(course, 6.0)
    assert (course.phase, course.record.round) == (RoundPhase.FINAL, 4)


def test_a_suspension_lets_the_round_in_flight_close() -> None:
    course = started("ab")
    assert course.planned(course.terms, True, 1.0) == []
    assert deliver(course, "ab", 5.0) == [Aggregate(round=1, parties=("a", "b"))]
    store(course, 6.0)
    assert (course.result, course.record.round) == (Result.SUSPENDED, 1)
    assert course.instruction("a") is Instruction.END
    course.planned(course.terms, False, 10.0)
    assert (course.result, course.instruction("a")) == (None, Instruction.WAIT)
    course.joined("a", 11.0)
    assert course.joined("b", 12.0) == [OpenRound(round=2)]


def test_a_suspension_gives_a_round_up_at_its_deadline() -> None:
    course = started("ab")
    course.planned(course.terms, True, 1.0)
    course.tick(100.0)
    assert (course.result, course.record.round, course.lost) == (Result.SUSPENDED, 0, 1)


def test_a_plan_changes_the_rounds_to_come() -> None:
    course = started("ab")
    course.planned(terms("abc", max=2, deadline_seconds=7.0), False, 1.0)
    assert course.deadline == 100.0
    course.joined("c", 2.0)
    assert course.instruction("c") is Instruction.TRAIN
    deliver(course, "abc", 5.0)
    store(course, 6.0)
    assert course.deadline == 13.0
    deliver(course, "abc", 8.0)
    store(course, 9.0)
    assert course.phase is RoundPhase.FINAL


def test_a_course_goes_on_from_its_record() -> None:
    before = started("ab", target=TARGET)
    evaluate(before, "ab", 0.3)
    deliver(before, "ab", 5.0)
    store(before, 6.0)
    after = RoundMachine(terms=before.terms, target=TARGET, record=before.record)
    after.joined("b", 50.0)
    assert after.joined("a", 51.0) == [OpenRound(round=2)]
    assert after.instruction("a") is Instruction.TRAIN
    assert evaluate(after, "ab", 0.5, 52.0) == [KeepBest(round=1)]


def test_after_its_last_round_a_restarted_course_waits_for_evaluations() -> None:
    before = started("ab", max=1)
    deliver(before, "ab", 5.0)
    store(before, 6.0)
    after = RoundMachine(terms=before.terms, record=before.record)
    assert after.tick(0.0) == [OpenRound(round=2)]
    after.joined("a", 1.0)
    assert evaluate(after, "a", 0.4, 2.0) == []
    after.joined("b", 3.0)
    assert evaluate(after, "b", 0.6, 4.0) == [Finish(round=1)]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([], {}),
        ([(0, {"a": 1.0})], {}),
        ([(1, {"a": 1.0}), (3, {"a": 0.0})], {"a": 0.25}),
        ([(1, {"a": 1.0}), (3, {"b": 0.5})], {"a": 1.0, "b": 0.5}),
    ],
)
def test_evaluations_are_meaned_by_samples(
    found: list[tuple[int, dict[str, float]]], expected: dict[str, float]
) -> None:
    assert mean([Evaluation(samples=n, metrics=m) for n, m in found]) == expected


def test_a_loss_is_the_mean_of_those_who_said_one() -> None:
    course = started("abc")
    course.accepted("a", delivery(samples=1, loss=2.0), 1.0)
    course.accepted("b", delivery(samples=3, loss=4.0), 1.0)
    course.accepted("c", delivery(samples=9, loss=None), 1.0)
    store(course, 2.0)
    assert course.record.last.loss == 3.5
    assert course.record.last.samples == 13
    assert not math.isinf(course.record.last.seconds)
