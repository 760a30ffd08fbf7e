"""Whatever happens in whatever order, rounds keep their promises."""

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


class World(RuleBasedStateMachine):
    """Parties that come, go, deliver, fail and evaluate while time passes."""

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
        self.terms = RoundSettings(
            rounds=rounds, parties=tuple(PARTIES), expected=frozenset(PARTIES)
        )
        self.target = Target(metric="m", value=0.9) if has_target else None
        self.course = RoundMachine(terms=self.terms, target=self.target)
        self.now, self.folded = 0.0, [-1]
        self.work: list[Command] = []
        self.finished = 0

    def see(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case Aggregate(round=number, parties=parties):
                    assert number == self.folded[-1] + 1, "a round is folded once, in its turn"
                    assert len(parties) >= self.course.terms.rounds.min_parties
                    assert set(parties) == self.course.accepted_updates.keys()
                    self.work.append(command)
                case Initialize() | Finish():
                    self.work.append(command)
                case AbandonRound():
                    delivered = len(self.course.accepted_updates)
                    assert delivered < self.course.terms.rounds.min_parties
                case End():
                    assert not self.work or isinstance(self.work[-1], Finish)

    @rule(name=party)
    def joins(self, name: str) -> None:
        self.see(self.course.joined(name, self.now))

    @rule(name=party)
    def leaves(self, name: str) -> None:
        self.see(self.course.left(name, self.now))

    @rule(name=party)
    def delivers(self, name: str) -> None:
        was_awaited = self.course.awaits(name)
        before = dict(self.course.accepted_updates)
        self.see(
            self.course.accepted(name, AcceptedUpdate(samples=3, weight=3.0, loss=1.0), self.now)
        )
        if not was_awaited and self.course.accepted_updates:
            assert self.course.accepted_updates == before

    @rule(name=party)
    def is_refused(self, name: str) -> None:
        self.see(self.course.refuse(name, self.now))

    @rule(name=party, value=st.floats(0, 1), back=st.integers(0, 1))
    def evaluates(self, name: str, value: float, back: int) -> None:
        number = self.course.record.round - back
        found = Evaluation(samples=2, metrics={"m": value})
        self.see(self.course.evaluate(name, number, found, self.now))

    @rule(seconds=st.floats(0, 60))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.see(self.course.tick(self.now))

    @rule(suspend=st.booleans(), quorum=st.integers(1, 4))
    def is_planned(self, suspend: bool, quorum: int) -> None:
        rounds = RoundsConfig(max=4, min_parties=quorum, deadline_seconds=DEADLINE)
        terms = RoundSettings(rounds=rounds, parties=tuple(PARTIES), expected=frozenset(PARTIES))
        self.see(self.course.planned(terms, suspend, self.now))

    @precondition(lambda self: self.work)
    @rule()
    def work_is_done(self) -> None:
        match self.work.pop(0):
            case Finish():
                self.finished += 1
                self.see(self.course.finished(self.now))
            case _:
                self.folded.append(self.course.round)
                self.see(self.course.stored(self.course.outcome(self.now), self.now))

    @rule()
    def the_aggregator_is_killed(self) -> None:
        """What was not stored is gone; its successor goes on from the record."""
        if self.course.phase is RoundPhase.ENDED or self.finished:
            return
        record = self.course.record
        self.work.clear()
        self.course = RoundMachine(terms=self.terms, target=self.target, record=record)

    @invariant()
    def no_round_outlives_its_deadline(self) -> None:
        if hasattr(self, "course"):
            open_ = self.course.phase in (RoundPhase.INITIAL, RoundPhase.OPEN, RoundPhase.FINAL)
            assert not open_ or self.now <= self.course.deadline
            assert not open_ or self.course.wakes_at(self.now) <= self.course.deadline

    @invariant()
    def rounds_are_stored_in_order_and_never_too_many(self) -> None:
        if hasattr(self, "course"):
            assert self.folded == list(range(-1, len(self.folded) - 1))
            assert self.course.record.round == self.folded[-1] <= 4
            assert self.finished <= 1

    @invariant()
    def only_who_is_asked_is_asked(self) -> None:
        if hasattr(self, "course") and self.course.phase in (
            RoundPhase.WAITING,
            RoundPhase.STORING,
        ):
            assert {self.course.instruction(name) for name in PARTIES} == {Instruction.WAIT}

    def teardown(self) -> None:
        """With all parties well, the federation always comes to its end."""
        if not hasattr(self, "course"):
            return
        self.see(self.course.planned(self.terms, False, self.now))
        for _ in range(60):
            self.now += 5.0
            for name in PARTIES:
                self.see(self.course.joined(name, self.now))
                if self.course.awaits(name):
                    self.delivers(name)
                if self.course.instruction(name) is Instruction.EVALUATE:
                    self.evaluates(name, 0.5, 0)
            self.see(self.course.tick(self.now))
            while self.work:
                self.work_is_done()
        assert self.course.phase is RoundPhase.ENDED


World.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestRounds = World.TestCase
