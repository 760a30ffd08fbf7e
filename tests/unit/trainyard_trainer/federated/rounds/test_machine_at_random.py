"""The rounds' invariants hold for any sequence of events."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from trainyard_trainer.contract.config import Target
from trainyard_trainer.contract.federated import RoundsConfig
from trainyard_trainer.federated.rounds.events import (
    AbandonRound,
    AcceptedUpdate,
    Aggregate,
    Command,
    End,
    Evaluation,
    Finish,
    Initialize,
    Instruction,
    RoundPhase,
    RoundSettings,
)
from trainyard_trainer.federated.rounds.machine import RoundMachine

PARTIES = "abcde"
party = st.sampled_from(PARTIES)
DEADLINE = 50.0


class Rounds(RuleBasedStateMachine):
    """Parties that join, leave, deliver, fail and evaluate while time passes."""

    @initialize(
        quorum=st.integers(1, 4),
        fraction=st.floats(0.1, 1.0),
        patience=st.none() | st.integers(1, 3),
        has_target=st.booleans(),
    )
    def begin(self, quorum: int, fraction: float, patience: int | None, has_target: bool) -> None:
        rounds = RoundsConfig(
            max=4,
            min_parties=quorum,
            fraction=fraction,
            patience=patience,
            deadline_seconds=DEADLINE,
        )
        self.settings = RoundSettings(
            rounds=rounds, parties=tuple(PARTIES), expected=frozenset(PARTIES)
        )
        self.target = Target(metric="m", value=0.9) if has_target else None
        self.machine = RoundMachine(settings=self.settings, target=self.target)
        self.now, self.stored_rounds = 0.0, [-1]
        self.pending: list[Command] = []
        self.finished = 0

    def check(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case Aggregate(round=number, parties=parties):
                    assert number == self.stored_rounds[-1] + 1, (
                        "each round is aggregated once, in order"
                    )
                    assert len(parties) >= self.machine.settings.rounds.min_parties
                    assert set(parties) == self.machine.updates.keys()
                    self.pending.append(command)
                case Initialize() | Finish():
                    self.pending.append(command)
                case AbandonRound():
                    delivered = len(self.machine.updates)
                    assert delivered < self.machine.settings.rounds.min_parties
                case End():
                    assert not self.pending or isinstance(self.pending[-1], Finish)

    @rule(name=party)
    def joins(self, name: str) -> None:
        self.check(self.machine.joined(name, self.now))

    @rule(name=party)
    def leaves(self, name: str) -> None:
        self.check(self.machine.left(name, self.now))

    @rule(name=party)
    def delivers(self, name: str) -> None:
        was_awaited = self.machine.awaits_update(name)
        before = dict(self.machine.updates)
        self.check(
            self.machine.update_accepted(name, AcceptedUpdate(samples=3, loss=1.0), self.now)
        )
        if not was_awaited and self.machine.updates:
            assert self.machine.updates == before

    @rule(name=party)
    def is_refused(self, name: str) -> None:
        self.check(self.machine.update_refused(name, self.now))

    @rule(name=party, value=st.floats(0, 1), back=st.integers(0, 1))
    def evaluates(self, name: str, value: float, back: int) -> None:
        number = self.machine.history.round - back
        found = Evaluation(samples=2, metrics={"m": value})
        self.check(self.machine.evaluated(name, number, found, self.now))

    @rule(seconds=st.floats(0, 60))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.check(self.machine.tick(self.now))

    @rule(suspend=st.booleans(), quorum=st.integers(1, 4))
    def is_planned(self, suspend: bool, quorum: int) -> None:
        rounds = RoundsConfig(max=4, min_parties=quorum, deadline_seconds=DEADLINE)
        settings = RoundSettings(rounds=rounds, parties=tuple(PARTIES), expected=frozenset(PARTIES))
        self.check(self.machine.plan_changed(settings, suspend, self.now))

    @precondition(lambda self: self.pending)
    @rule()
    def pending_command_completes(self) -> None:
        match self.pending.pop(0):
            case Finish():
                self.finished += 1
                self.check(self.machine.finished(self.now))
            case _:
                self.stored_rounds.append(self.machine.round)
                self.check(self.machine.stored(self.machine.next_history(self.now), self.now))

    @rule()
    def the_aggregator_is_killed(self) -> None:
        """What was not stored is lost; a successor resumes from the history."""
        if self.machine.phase is RoundPhase.ENDED or self.finished:
            return
        history = self.machine.history
        self.pending.clear()
        self.machine = RoundMachine(settings=self.settings, target=self.target, history=history)

    @invariant()
    def no_round_outlives_its_deadline(self) -> None:
        if hasattr(self, "machine"):
            open_ = self.machine.phase in (RoundPhase.INITIAL, RoundPhase.OPEN, RoundPhase.FINAL)
            assert not open_ or self.now <= self.machine.deadline
            assert not open_ or self.machine.next_tick_at(self.now) <= self.machine.deadline

    @invariant()
    def rounds_are_stored_in_order_and_never_too_many(self) -> None:
        if hasattr(self, "machine"):
            assert self.stored_rounds == list(range(-1, len(self.stored_rounds) - 1))
            assert self.machine.history.round == self.stored_rounds[-1] <= 4
            assert self.finished <= 1

    @invariant()
    def no_party_is_instructed_between_rounds(self) -> None:
        if hasattr(self, "machine") and self.machine.phase in (
            RoundPhase.WAITING,
            RoundPhase.STORING,
        ):
            assert {self.machine.instruction(name) for name in PARTIES} == {Instruction.WAIT}

    def teardown(self) -> None:
        """With all parties present, the federation always ends."""
        if not hasattr(self, "machine"):
            return
        self.check(self.machine.plan_changed(self.settings, False, self.now))
        for _ in range(60):
            self.now += 5.0
            for name in PARTIES:
                self.check(self.machine.joined(name, self.now))
                if self.machine.awaits_update(name):
                    self.delivers(name)
                if self.machine.instruction(name) is Instruction.EVALUATE:
                    self.evaluates(name, 0.5, 0)
            self.check(self.machine.tick(self.now))
            while self.pending:
                self.pending_command_completes()
        assert self.machine.phase is RoundPhase.ENDED


Rounds.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestRounds = Rounds.TestCase
