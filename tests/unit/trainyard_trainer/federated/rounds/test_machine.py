"""What opens, closes and abandons a round, and what ends the federation."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainyard_trainer.contract.config import Direction, Target
from trainyard_trainer.contract.exits import Result
from trainyard_trainer.contract.federated import PartyState, RoundsConfig
from trainyard_trainer.federated.protocol.messages import MAX_MAGNITUDE, MAX_SAMPLES
from trainyard_trainer.federated.rounds.events import (
    MAX_METRICS,
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
    mean_metrics,
    shuffled,
)
from trainyard_trainer.federated.rounds.history import (
    MAX_COUNT,
    FederationHistory,
    RoundRecord,
)
from trainyard_trainer.federated.rounds.machine import (
    JOIN_WINDOW_SECONDS,
    PAUSE_SECONDS,
    RoundMachine,
)

TARGET = Target(metric="eval/accuracy", value=0.9)


def settings(names: str, **rounds: Any) -> RoundSettings:
    values = {"max": 5, "min_parties": 2, "deadline_seconds": 100.0, **rounds}
    return RoundSettings(
        rounds=RoundsConfig(**values), parties=tuple(names), expected=frozenset(names)
    )


def started(names: str = "abc", target: Target | None = None, **rounds: Any) -> RoundMachine:
    """A machine whose first round is open, with all parties present."""
    machine = RoundMachine(settings=settings(names, **rounds), target=target)
    for name in names:
        machine.joined(name, 0.0)
    assert machine.update_accepted("a", update(), 0.0) == [Initialize(party="a")]
    assert store(machine, 0.0) == [OpenRound(round=1)]
    return machine


def update(**values: Any) -> AcceptedUpdate:
    return AcceptedUpdate(**{"samples": 10, "loss": 1.0, **values})


def deliver(machine: RoundMachine, names: str, now: float, **values: Any) -> list[Command]:
    return [c for name in names for c in machine.update_accepted(name, update(**values), now)]


def store(machine: RoundMachine, now: float) -> list[Command]:
    return machine.stored(machine.next_history(now), now)


def evaluate(machine: RoundMachine, names: str, value: float, now: float = 0.0) -> list[Command]:
    found = Evaluation(samples=5, metrics={"eval/accuracy": value})
    number = machine.history.round
    return [c for name in names for c in machine.evaluated(name, number, found, now)]


def test_the_first_round_waits_for_all_expected_parties() -> None:
    machine = RoundMachine(settings=settings("abc"))
    assert machine.joined("b", 0.0) == []
    assert machine.joined("c", 1.0) == []
    assert machine.next_tick_at(1.0) == 1.0 + JOIN_WINDOW_SECONDS
    assert machine.joined("a", 2.0) == [OpenRound(round=0)]
    assert [machine.instruction(name) for name in "abc"] == [
        Instruction.INITIAL,
        Instruction.WAIT,
        Instruction.WAIT,
    ]


def test_the_first_round_does_not_wait_longer_than_the_join_window() -> None:
    machine = RoundMachine(settings=settings("abc"))
    machine.joined("b", 0.0)
    machine.joined("c", 1.0)
    assert machine.tick(1.0 + JOIN_WINDOW_SECONDS - 0.1) == []
    assert machine.tick(1.0 + JOIN_WINDOW_SECONDS) == [OpenRound(round=0)]
    assert machine.instruction("b") is Instruction.INITIAL


def test_no_round_opens_without_a_quorum() -> None:
    machine = RoundMachine(settings=settings("abc", min_parties=2))
    machine.joined("a", 0.0)
    assert machine.tick(1e9) == []
    assert machine.phase is RoundPhase.WAITING


def test_an_unknown_party_is_ignored() -> None:
    machine = started()
    assert machine.joined("x", 0.0) == []
    assert machine.instruction("x") is Instruction.WAIT
    assert machine.update_accepted("x", update(), 0.0) == []
    assert "x" not in machine.updates


def test_another_party_sends_the_initial_model_when_the_first_leaves_or_is_refused() -> None:
    machine = RoundMachine(settings=settings("abc"))
    for name in "abc":
        machine.joined(name, 0.0)
    assert machine.left("a", 1.0) == [OpenRound(round=0)]
    assert machine.instruction("b") is Instruction.INITIAL
    assert machine.update_refused("b", 2.0) == [OpenRound(round=0)]
    assert machine.instruction("c") is Instruction.INITIAL
    assert machine.deadline == 100.0
    assert machine.tick(100.0)[0] == AbandonRound(round=0, updates=0)
    assert machine.rounds_lost == 1


def test_a_round_closes_when_all_parties_have_answered() -> None:
    machine = started()
    assert deliver(machine, "ab", 5.0) == []
    assert machine.update_refused("c", 6.0) == [Aggregate(round=1, parties=("a", "b"))]
    assert machine.party_state("c") is PartyState.REFUSED
    assert store(machine, 8.0) == [OpenRound(round=2)]
    assert machine.history.last_round.seconds == 8.0
    assert machine.history.contributors == ("a", "b")
    assert machine.history.contributions == {"a": 1, "b": 1}
    assert [machine.instruction(name) for name in "abc"] == [Instruction.TRAIN] * 3


def test_a_round_closes_at_its_deadline_with_a_quorum() -> None:
    machine = started()
    deliver(machine, "ab", 5.0)
    assert machine.tick(99.9) == []
    assert machine.next_tick_at(99.9) == 100.0
    assert machine.tick(100.0) == [Aggregate(round=1, parties=("a", "b"))]
    assert store(machine, 101.0) == [OpenRound(round=2)]
    assert machine.instruction("c") is Instruction.WAIT, (
        "a party that has not answered must poll again"
    )
    machine.joined("c", 102.0)
    assert machine.instruction("c") is Instruction.TRAIN


def test_a_round_without_a_quorum_is_abandoned_and_announced_again() -> None:
    machine = started()
    deliver(machine, "a", 5.0)
    assert machine.tick(100.0) == [AbandonRound(round=1, updates=1)]
    assert (machine.rounds_lost, machine.phase, machine.history.round) == (1, RoundPhase.WAITING, 0)
    assert machine.joined("b", 130.0) == [OpenRound(round=1)]
    assert machine.deadline == 230.0
    assert [machine.instruction(name) for name in "abc"] == [
        Instruction.WAIT,
        Instruction.TRAIN,
        Instruction.WAIT,
    ]
    assert deliver(machine, "b", 140.0) == [Aggregate(round=1, parties=("a", "b"))]


def test_a_round_does_not_wait_for_a_party_that_left() -> None:
    machine = started()
    deliver(machine, "ab", 5.0)
    assert machine.left("c", 6.0) == [Aggregate(round=1, parties=("a", "b"))]


def test_a_party_that_rejoins_within_a_round_is_instructed_again() -> None:
    machine = started()
    deliver(machine, "a", 5.0)
    machine.left("c", 6.0)
    machine.joined("c", 7.0)
    assert machine.instruction("c") is Instruction.TRAIN
    deliver(machine, "b", 8.0)
    assert machine.phase is RoundPhase.OPEN
    assert deliver(machine, "c", 9.0) == [Aggregate(round=1, parties=("a", "b", "c"))]


def test_a_round_below_its_quorum_ends_once_all_have_answered() -> None:
    machine = started("ab")
    deliver(machine, "a", 5.0)
    assert machine.update_refused("b", 6.0)[0] == AbandonRound(round=1, updates=1)
    assert machine.instruction("b") is Instruction.WAIT
    assert machine.next_tick_at(6.0) == 6.0 + PAUSE_SECONDS[0]
    assert machine.tick(6.0 + PAUSE_SECONDS[0]) == [OpenRound(round=1)]
    assert machine.instruction("b") is Instruction.TRAIN, "and it may try again"


def test_rounds_that_end_at_once_are_announced_more_and_more_slowly() -> None:
    machine, now, pauses = started("ab"), 0.0, []
    for _ in range(8):
        assert machine.update_refused("a", now) == []
        assert machine.update_refused("b", now)[0] == AbandonRound(round=1, updates=0)
        pauses.append(machine.next_tick_at(now) - now)
        now = machine.next_tick_at(now)
        assert machine.tick(now) == [OpenRound(round=1)]
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    deliver(machine, "ab", now)
    store(machine, now)
    machine.update_refused("a", now)
    machine.update_refused("b", now)
    assert machine.next_tick_at(now) == now + PAUSE_SECONDS[0]


def refuse_rounds(machine: RoundMachine, name: str, others: str, rounds: int) -> None:
    for _ in range(rounds):
        machine.update_refused(name, 1.0)
        deliver(machine, others, 2.0)
        store(machine, 2.0)


def test_a_party_refused_three_times_in_a_row_is_asked_but_not_waited_for() -> None:
    machine = started("abc")
    refuse_rounds(machine, "c", "ab", 2)
    assert machine.party_state("c") is PartyState.TRAINING
    refuse_rounds(machine, "c", "ab", 1)
    assert machine.party_state("c") is PartyState.LAGGING
    assert machine.instruction("c") is Instruction.TRAIN
    assert deliver(machine, "ab", 3.0) == [Aggregate(round=4, parties=("a", "b"))]


def test_a_party_silent_three_times_in_a_row_is_asked_but_not_waited_for() -> None:
    machine, now = started("abc"), 0.0
    for number in range(1, 4):
        deliver(machine, "ab", now)
        now = machine.deadline
        assert machine.tick(now) == [Aggregate(round=number, parties=("a", "b"))]
        store(machine, now)
        machine.joined("c", now)
    assert machine.party_state("c") is PartyState.LAGGING
    assert deliver(machine, "ab", now) == [Aggregate(round=4, parties=("a", "b"))]


def test_one_answer_brings_a_lagging_party_back() -> None:
    machine = started("abc")
    refuse_rounds(machine, "c", "ab", 3)
    deliver(machine, "cab", 3.0)
    store(machine, 3.0)
    assert machine.party_state("c") is PartyState.TRAINING
    assert deliver(machine, "ab", 4.0) == []


def test_a_lagging_party_that_is_late_by_less_than_the_deadline_is_back() -> None:
    machine = started("abc")
    refuse_rounds(machine, "c", "ab", 3)
    deliver(machine, "ab", 3.0)
    store(machine, 3.0)
    machine.answered_late("c", 2, 4.0)
    machine.answered_late("c", 4, 500.0)
    assert machine.is_lagging("c")
    machine.answered_late("c", 4, 4.0)
    assert not machine.is_lagging("c")


def test_a_quorum_waits_for_lagging_parties() -> None:
    machine = started("ab", min_parties=1)
    refuse_rounds(machine, "b", "a", 3)
    machine.plan_changed(settings("ab", min_parties=2, max=9), False, 3.0)
    assert deliver(machine, "a", 4.0) == []
    assert deliver(machine, "b", 5.0) == [Aggregate(round=4, parties=("a", "b"))]


def test_lagging_parties_take_no_place_in_a_sample() -> None:
    machine = started("abcdefgh", fraction=0.5, max=50)
    for _ in range(20):
        for name in "ab":
            machine.update_refused(name, 1.0)
        deliver(machine, "cdefgh", 2.0)
        store(machine, 2.0)
    assert machine.is_lagging("a")
    assert machine.is_lagging("b")
    asked = {name for name in "abcdefgh" if machine.instruction(name) is Instruction.TRAIN}
    assert asked >= {"a", "b"}
    assert len(asked) == 6


def test_a_round_does_not_wait_for_a_party_whose_connection_broke() -> None:
    machine = started("abc")
    deliver(machine, "ab", 5.0)
    assert machine.lost("c", 6.0) == [Aggregate(round=1, parties=("a", "b"))]


def test_a_party_whose_connection_broke_may_still_deliver() -> None:
    machine = started("abc")
    deliver(machine, "a", 5.0)
    assert machine.lost("c", 6.0) == []
    assert machine.party_state("c") is PartyState.ABSENT
    assert deliver(machine, "cb", 7.0) == [Aggregate(round=1, parties=("a", "b", "c"))]


def test_another_party_initializes_when_the_first_ones_connection_breaks() -> None:
    machine = RoundMachine(settings=settings("abc"))
    for name in "abc":
        machine.joined(name, 0.0)
    assert machine.lost("a", 1.0) == [OpenRound(round=0)]
    assert machine.instruction("b") is Instruction.INITIAL


def test_the_last_evaluation_does_not_wait_for_a_broken_connection() -> None:
    machine = started("abc", max=1)
    deliver(machine, "abc", 5.0)
    store(machine, 6.0)
    assert evaluate(machine, "ab", 0.5, 7.0) == []
    assert machine.lost("c", 8.0) == [Finish(round=1)]


def test_an_update_counts_once() -> None:
    machine = started()
    deliver(machine, "aab", 5.0)
    machine.update_refused("a", 6.0)
    assert machine.party_state("a") is PartyState.DELIVERED
    assert deliver(machine, "c", 7.0) == [Aggregate(round=1, parties=("a", "b", "c"))]
    assert deliver(machine, "abc", 8.0) == []
    assert store(machine, 9.0) == [OpenRound(round=2)]
    assert store(machine, 9.0) == [], "no model is being stored"
    assert machine.history.round == 1


def test_a_fraction_is_sampled_and_a_party_that_leaves_is_replaced() -> None:
    machine = started("abcdefgh", fraction=0.5)
    sampled = {name for name in "abcdefgh" if machine.instruction(name) is Instruction.TRAIN}
    assert sampled == set(shuffled("abcdefgh", 0, 1)[:4])
    machine.left(min(sampled), 1.0)
    others = {name for name in "abcdefgh" if machine.instruction(name) is Instruction.TRAIN}
    # Half of seven is four.
    assert len(others) == 4
    assert min(sampled) not in others


def test_the_sample_is_never_below_the_quorum() -> None:
    machine = started("abcdefgh", fraction=0.01, min_parties=3)
    assert sum(machine.instruction(name) is Instruction.TRAIN for name in "abcdefgh") == 3


def test_rounds_sample_different_parties() -> None:
    draws = {tuple(sorted(shuffled("abcdefgh", 3, number)[:4])) for number in range(20)}
    assert len(draws) > 5
    assert shuffled("hgfedcba", 3, 1) == shuffled("abcdefgh", 3, 1)


def test_the_last_round_is_evaluated_before_the_end() -> None:
    machine = started("ab", max=1)
    deliver(machine, "ab", 5.0)
    assert store(machine, 6.0) == [OpenRound(round=2)]
    assert machine.phase is RoundPhase.FINAL
    assert machine.instruction("a") is Instruction.EVALUATE
    assert evaluate(machine, "a", 0.5) == []
    assert machine.instruction("a") is Instruction.WAIT
    assert evaluate(machine, "b", 0.7) == [Finish(round=1)]
    assert machine.history.last_round.metrics == {"eval/accuracy": 0.6}
    machine.finished(8.0)
    assert (machine.result, machine.instruction("a")) == (Result.COMPLETE, Instruction.END)


def test_the_last_evaluation_has_a_deadline() -> None:
    machine = started("ab", max=1)
    deliver(machine, "ab", 5.0)
    store(machine, 6.0)
    evaluate(machine, "a", 0.5)
    assert machine.tick(106.0) == [Finish(round=1)]


def test_no_round_is_aggregated_once_the_target_is_reached() -> None:
    machine = started("ab", target=TARGET)
    assert evaluate(machine, "ab", 0.1) == [KeepBest(round=0)]
    deliver(machine, "ab", 5.0)
    store(machine, 6.0)
    deliver(machine, "a", 7.0)
    assert evaluate(machine, "ab", 0.95, 8.0) == [KeepBest(round=1), Finish(round=1)]
    assert deliver(machine, "b", 9.0) == []
    assert machine.rounds_lost == 0


def test_evaluations_present_at_the_close_decide_before_the_aggregation() -> None:
    machine = started("abc", target=TARGET)
    evaluate(machine, "ab", 0.95)
    assert deliver(machine, "abc", 5.0) == [KeepBest(round=0), Finish(round=0)]


def test_the_best_model_is_the_result() -> None:
    machine = started("ab", target=TARGET, patience=2)
    commands = evaluate(machine, "ab", 0.1)
    for value in (0.8, 0.5, 0.6):
        deliver(machine, "ab", 5.0)
        store(machine, 6.0)
        commands += evaluate(machine, "ab", value)
    assert commands == [KeepBest(round=0), KeepBest(round=1), Finish(round=1)]
    assert machine.history.round == 3


def test_a_falling_metric_can_be_the_target() -> None:
    machine = started(
        "ab", target=Target(metric="eval/accuracy", value=0.1, direction=Direction.MIN)
    )
    assert evaluate(machine, "ab", 0.2) == [KeepBest(round=0)]
    deliver(machine, "ab", 5.0)
    store(machine, 6.0)
    assert evaluate(machine, "ab", 0.3) == []
    deliver(machine, "ab", 7.0)
    store(machine, 8.0)
    assert evaluate(machine, "ab", 0.1) == [KeepBest(round=2), Finish(round=2)]


def test_without_a_target_patience_counts_by_the_loss() -> None:
    machine = started("ab", patience=2, max=50)
    for loss in (1.0, 0.5, 0.6, 0.5):
        assert machine.phase is RoundPhase.OPEN
        deliver(machine, "ab", 5.0, loss=loss)
        store(machine, 6.0)
    assert (machine.phase, machine.history.round) == (RoundPhase.FINAL, 4)


def test_a_suspension_lets_the_round_in_flight_close() -> None:
    machine = started("ab")
    assert machine.plan_changed(machine.settings, True, 1.0) == []
    assert deliver(machine, "ab", 5.0) == [Aggregate(round=1, parties=("a", "b"))]
    store(machine, 6.0)
    assert (machine.result, machine.history.round) == (Result.SUSPENDED, 1)
    assert machine.instruction("a") is Instruction.END
    machine.plan_changed(machine.settings, False, 10.0)
    assert (machine.result, machine.instruction("a")) == (None, Instruction.WAIT)
    machine.joined("a", 11.0)
    assert machine.joined("b", 12.0) == [OpenRound(round=2)]


def test_a_suspension_abandons_a_round_at_its_deadline() -> None:
    machine = started("ab")
    machine.plan_changed(machine.settings, True, 1.0)
    machine.tick(100.0)
    assert (machine.result, machine.history.round, machine.rounds_lost) == (Result.SUSPENDED, 0, 1)


def test_a_plan_changes_only_later_rounds() -> None:
    machine = started("ab")
    machine.plan_changed(settings("abc", max=2, deadline_seconds=7.0), False, 1.0)
    assert machine.deadline == 100.0
    machine.joined("c", 2.0)
    assert machine.instruction("c") is Instruction.TRAIN
    deliver(machine, "abc", 5.0)
    store(machine, 6.0)
    assert machine.deadline == 13.0
    deliver(machine, "abc", 8.0)
    store(machine, 9.0)
    assert machine.phase is RoundPhase.FINAL


def test_a_machine_resumes_from_its_history() -> None:
    before = started("ab", target=TARGET)
    evaluate(before, "ab", 0.3)
    deliver(before, "ab", 5.0)
    store(before, 6.0)
    after = RoundMachine(settings=before.settings, target=TARGET, history=before.history)
    after.joined("b", 50.0)
    assert after.joined("a", 51.0) == [OpenRound(round=2)]
    assert after.instruction("a") is Instruction.TRAIN
    assert evaluate(after, "ab", 0.5, 52.0) == [KeepBest(round=1)]


def test_after_its_last_round_a_restarted_machine_waits_for_evaluations() -> None:
    before = started("ab", max=1)
    deliver(before, "ab", 5.0)
    store(before, 6.0)
    after = RoundMachine(settings=before.settings, history=before.history)
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
def test_metrics_are_averaged_by_samples(
    found: list[tuple[int, dict[str, float]]], expected: dict[str, float]
) -> None:
    assert mean_metrics([Evaluation(samples=n, metrics=m) for n, m in found]) == expected


def test_the_loss_is_the_mean_over_updates_that_have_one() -> None:
    machine = started("abc")
    machine.update_accepted("a", update(samples=1, loss=2.0), 1.0)
    machine.update_accepted("b", update(samples=3, loss=4.0), 1.0)
    machine.update_accepted("c", update(samples=9, loss=None), 1.0)
    store(machine, 2.0)
    assert machine.history.last_round.loss == 3.5
    assert machine.history.last_round.samples == 13
    assert not math.isinf(machine.history.last_round.seconds)


def test_no_single_party_reaches_the_target() -> None:
    machine = started("abc", target=TARGET)
    forged = Evaluation(samples=1 << 40, metrics={"eval/accuracy": 1e100})
    machine.evaluated("a", 0, forged, 1.0)
    assert evaluate(machine, "bc", 0.5) == [KeepBest(round=0)]
    assert machine.phase is RoundPhase.OPEN
    assert deliver(machine, "abc", 5.0) == [Aggregate(round=1, parties=("a", "b", "c"))]


def test_the_target_needs_evaluations_of_a_quorum() -> None:
    machine = started("abc", target=TARGET, min_parties=2)
    evaluate(machine, "a", 0.95)
    assert deliver(machine, "abc", 5.0) == [Aggregate(round=1, parties=("a", "b", "c"))]
    assert machine.history.best is None


def test_patience_does_not_count_rounds_that_nobody_measured() -> None:
    machine = started("ab", target=TARGET, patience=2, max=50)
    for _ in range(5):
        assert deliver(machine, "ab", 5.0)[-1] == Aggregate(round=machine.round, parties=("a", "b"))
        store(machine, 6.0)


def test_a_partys_names_do_not_displace_the_metrics_of_others() -> None:
    names = {f"a{number:03}": 1.0 for number in range(100)}
    evaluations = [
        Evaluation(samples=5, metrics=names),
        Evaluation(samples=5, metrics={"eval/accuracy": 0.5, "loss": 1.0}),
        Evaluation(samples=5, metrics={"eval/accuracy": 0.7, "loss": 1.0}),
    ]
    metrics = mean_metrics(evaluations, "z")
    assert len(metrics) == MAX_METRICS
    assert metrics["eval/accuracy"] == pytest.approx(0.6)
    assert "loss" in metrics
    alone = [Evaluation(samples=5, metrics={**names, "z": 0.5})]
    assert mean_metrics(alone, "z")["z"] == 0.5


@given(
    st.lists(
        st.tuples(
            st.integers(0, MAX_SAMPLES),
            st.floats(-MAX_MAGNITUDE, MAX_MAGNITUDE, allow_nan=False),
        ),
        max_size=8,
    )
)
def test_the_mean_of_all_accepted_evaluations_is_finite(found: list[tuple[int, float]]) -> None:
    evaluations = [Evaluation(samples=count, metrics={"m": value}) for count, value in found]
    assert all(math.isfinite(value) for value in mean_metrics(evaluations).values())


def test_the_samples_trained_stay_a_number_that_the_api_keeps() -> None:
    history = FederationHistory(samples_trained=MAX_COUNT - 1)
    record = RoundRecord(round=1)
    assert history.with_round(record, {"a": MAX_SAMPLES}, 1000).samples_trained == MAX_COUNT


def started_without_model(names: str = "abc", **rounds: Any) -> RoundMachine:
    machine = RoundMachine(settings=settings(names, **rounds))
    for name in names:
        machine.joined(name, 0.0)
    return machine


def test_two_parties_confirm_the_initial_model() -> None:
    machine = started_without_model()
    assert machine.update_accepted("a", update(digest="x"), 1.0) == [OpenRound(round=0)]
    assert machine.instruction("b") is Instruction.INITIAL
    assert machine.update_accepted("b", update(digest="y"), 2.0) == [OpenRound(round=0)]
    assert machine.update_accepted("c", update(digest="y"), 3.0) == [Initialize(party="b")]


def test_a_round_in_which_no_two_initial_models_agree_is_abandoned() -> None:
    machine = started_without_model("ab")
    machine.update_accepted("a", update(digest="x"), 1.0)
    assert machine.update_accepted("b", update(digest="y"), 2.0) == [
        AbandonRound(round=0, updates=2, mismatched=("a", "b"))
    ]
    assert machine.tick(2.0 + PAUSE_SECONDS[0]) == [OpenRound(round=0)]
    machine.update_accepted("a", update(digest="x"), 5.0)
    assert machine.update_accepted("b", update(digest="x"), 6.0) == [Initialize(party="a")]


def test_a_disagreement_waits_for_parties_that_are_absent() -> None:
    machine = RoundMachine(settings=settings("abc"))
    machine.joined("a", 0.0)
    machine.joined("b", 0.0)
    machine.tick(JOIN_WINDOW_SECONDS)
    machine.update_accepted("a", update(digest="x"), 4.0)
    assert machine.update_accepted("b", update(digest="y"), 5.0) == []
    assert machine.joined("c", 6.0) == [OpenRound(round=0)]
    assert machine.update_accepted("c", update(digest="x"), 7.0) == [Initialize(party="a")]


def test_a_quorum_of_one_that_is_alone_chooses_the_initial_model() -> None:
    machine = RoundMachine(settings=settings("ab", min_parties=1))
    machine.joined("a", 0.0)
    machine.tick(JOIN_WINDOW_SECONDS)
    assert machine.update_accepted("a", update(digest="x"), 4.0) == [Initialize(party="a")]


def test_an_initial_model_is_kept_until_another_party_joins() -> None:
    machine = started_without_model("ab")
    machine.update_accepted("a", update(digest="x"), 1.0)
    machine.left("b", 2.0)
    assert machine.tick(100.0) == [AbandonRound(round=0, updates=1)]
    assert machine.joined("b", 200.0) == [OpenRound(round=0)]
    assert machine.instruction("b") is Instruction.INITIAL
    assert machine.update_accepted("b", update(digest="x"), 201.0) == [Initialize(party="a")]
