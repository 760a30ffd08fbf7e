"""The course of a federation's rounds: events in, commands out.

It stands apart, and does no I/O, because what must never happen is decided here alone: a round
folded below its quorum, folded twice, or waiting past its deadline. Times are arguments, in seconds
of one steady clock. Whoever calls carries out the commands in their order and tells when a model is
safe; until then no round opens.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from trainyard_trainer.contract.config import Direction, Target
from trainyard_trainer.contract.exits import Result
from trainyard_trainer.contract.federated import PartyState
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
    KeepBest,
    OpenRound,
    RoundPhase,
    RoundSettings,
    mean,
    shuffled,
)
from trainyard_trainer.federated.rounds.history import FederationHistory, RoundRecord, is_reached

GATHER_SECONDS: Final = 3.0
"""After an aggregator's start its first round waits until this long nobody new has come."""


@dataclass(slots=True, kw_only=True)
class RoundMachine:
    """The state of the rounds; its methods take an event and return the commands that follow."""

    terms: RoundSettings
    target: Target | None = None
    seed: int = 0
    local_epochs: int = 1
    record: FederationHistory = field(default_factory=FederationHistory)
    lost: int = 0
    """Rounds given up."""
    phase: RoundPhase = RoundPhase.WAITING
    result: Result | None = None
    present: set[str] = field(default_factory=set)
    instructed: set[str] = field(default_factory=set)
    accepted_updates: dict[str, AcceptedUpdate] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    evaluations: dict[str, Evaluation] = field(default_factory=dict)
    """Of the model in force."""
    is_evaluated: bool = False
    """Whether the evaluations of the model in force have been drawn together."""
    suspend: bool = False
    opened: float = 0.0
    deadline: float = math.inf
    seconds: float = 0.0
    """From the last folded round's announcement to its model being safe."""
    attempt: int = 0
    """Changes whenever parties may be asked for something new."""
    _gathered_until: float | None = 0.0
    """None once a round was opened under this term."""

    # --- events ---------------------------------------------------------------------------------

    def joined(self, party: str, now: float) -> list[Command]:
        """A party is there and free, or is there again; one that was asked is asked again."""
        if party not in self.terms.parties:
            return []
        if party not in self.present:
            self.present.add(party)
            if self._gathered_until is not None:
                self._gathered_until = now + GATHER_SECONDS
        if self.phase is RoundPhase.OPEN and party in self._chosen():
            self.instructed.add(party)
        if self.phase is RoundPhase.FINAL:
            self.instructed.add(party)
        return self._advance(now)

    def left(self, party: str, now: float) -> list[Command]:
        """A party has said goodbye, or was not heard of for long while it had nothing to do."""
        self.present.discard(party)
        if party not in self.accepted_updates:
            self.instructed.discard(party)
        if self.phase is RoundPhase.OPEN:
            self.instructed |= self._chosen()  # Where a fraction is asked, another takes its place.
        return self._advance(now)

    def accepted(self, party: str, delivery: AcceptedUpdate, now: float) -> list[Command]:
        """A party's update of the round in flight is verified and safe in the spool."""
        if self.awaits(party):
            self.accepted_updates[party] = delivery
        return self._advance(now)

    def refuse(self, party: str, now: float) -> list[Command]:
        """A party's update of the round in flight was refused."""
        if self.awaits(party):
            self.refused.add(party)
        return self._advance(now)

    def evaluate(self, party: str, round_: int, found: Evaluation, now: float) -> list[Command]:
        """A party has evaluated the model of `round_`."""
        if round_ == self.record.round and not self.is_evaluated and party in self.terms.parties:
            self.evaluations[party] = found
        return self._advance(now)

    def stored(self, record: FederationHistory, now: float) -> list[Command]:
        """The model of the round in flight is safe, and with it this record (see `outcome`)."""
        if self.phase is RoundPhase.STORING:
            self.seconds = now - self.opened
            self.record = record
            self._reset()
            self.phase = RoundPhase.WAITING
        return self._advance(now)

    def finished(self, now: float) -> list[Command]:
        """The result is safe."""
        self.phase, self.result = RoundPhase.ENDED, Result.COMPLETE
        self.attempt += 1
        return [End(result=Result.COMPLETE), *self._advance(now)]

    def planned(self, terms: RoundSettings, suspend: bool, now: float) -> list[Command]:
        """A Plan has come; the round in flight keeps the terms it was announced with."""
        self.terms, self.suspend = terms, suspend
        self.present &= set(terms.parties)
        if not suspend and self.result is Result.SUSPENDED:
            self.phase, self.result = RoundPhase.WAITING, None
            self.present.clear()  # They were let go; others will come.
            self._gathered_until = now + GATHER_SECONDS
            self.attempt += 1
        return self._advance(now)

    def tick(self, now: float) -> list[Command]:
        """Time has passed."""
        return self._advance(now)

    # --- questions ------------------------------------------------------------------------------

    @property
    def round(self) -> int:
        """The round in flight, or the next one."""
        return self.record.round + 1

    def wakes_at(self, now: float) -> float:
        """When `tick` should be called, at the latest."""
        times = [math.inf]
        if self.phase in (RoundPhase.INITIAL, RoundPhase.OPEN, RoundPhase.FINAL):
            times.append(self.deadline)
        if self._gathered_until is not None and self._gathered_until > now:
            times.append(self._gathered_until)
        return min(times)

    def instruction(self, party: str) -> Instruction:
        """What `party` is to do now."""
        if self.phase is RoundPhase.ENDED:
            return Instruction.END
        if party not in self.instructed or party in self.accepted_updates or party in self.refused:
            return Instruction.WAIT
        match self.phase:
            case RoundPhase.INITIAL:
                return Instruction.INITIAL
            case RoundPhase.OPEN:
                return Instruction.TRAIN
            case RoundPhase.FINAL if party not in self.evaluations:
                return Instruction.EVALUATE
        return Instruction.WAIT

    def awaits(self, party: str) -> bool:
        """Whether an upload of `party` would be taken."""
        return self.instruction(party) in (Instruction.INITIAL, Instruction.TRAIN)

    def state_of(self, party: str) -> PartyState:
        """What a party is doing."""
        if party in self.accepted_updates:
            return PartyState.DELIVERED
        if party in self.refused:
            return PartyState.REFUSED
        if self.instruction(party) in (
            Instruction.INITIAL,
            Instruction.TRAIN,
            Instruction.EVALUATE,
        ):
            return PartyState.TRAINING
        return PartyState.IDLE if party in self.present else PartyState.ABSENT

    def outcome(self, now: float) -> FederationHistory:
        """The record that goes with the model of the round in flight."""
        if self.round == 0:
            return self.record.aggregated(RoundRecord(round=0, seconds=now - self.opened), {}, 0)
        given = [self.accepted_updates[name] for name in sorted(self.accepted_updates)]
        known = [(found.samples, found.loss) for found in given if found.loss is not None]
        total = sum(count for count, _ in known)
        past = RoundRecord(
            round=self.round,
            parties=len(given),
            samples=sum(found.samples for found in given),
            loss=math.fsum(count * loss for count, loss in known) / total if total else None,
            seconds=now - self.opened,
        )
        samples = {name: found.samples for name, found in self.accepted_updates.items()}
        record = self.record.aggregated(past, samples, self.local_epochs)
        return record.judged(past.loss, Direction.MIN) if self.target is None else record

    # --- transitions ----------------------------------------------------------------------------

    def _advance(self, now: float) -> list[Command]:
        commands: list[Command] = []
        while (command := self._next(now)) is not None:
            commands.append(command)
        return commands

    def _next(self, now: float) -> Command | None:
        match self.phase:
            case RoundPhase.WAITING:
                return self._next_waiting(now)
            case RoundPhase.INITIAL:
                return self._next_initial(now)
            case RoundPhase.OPEN:
                return self._next_open(now)
            case RoundPhase.FINAL:
                return self._next_final(now)
        return None

    def _next_waiting(self, now: float) -> Command | None:
        if self.suspend:
            self.phase, self.result = RoundPhase.ENDED, Result.SUSPENDED
            self.attempt += 1
            return End(result=Result.SUSPENDED)
        if self._is_over():
            return self._begin(RoundPhase.FINAL, self.present, now)
        if not self._is_gathered(now):
            return None
        self._gathered_until = None
        if self.record.round < 0:
            first = min(self.present - self.refused, default=None) or min(self.present)
            self.refused.discard(first)
            return self._begin(RoundPhase.INITIAL, {first}, now)
        self.refused.clear()
        return self._begin(RoundPhase.OPEN, {*self._chosen(), *self.accepted_updates}, now)

    def _begin(self, phase: RoundPhase, asked: Collection[str], now: float) -> OpenRound:
        self.phase, self.instructed = phase, set(asked)
        self.opened, self.deadline = now, now + self.terms.rounds.deadline_seconds
        self.attempt += 1
        return OpenRound(round=self.round)

    def _next_initial(self, now: float) -> Command | None:
        if self.accepted_updates:
            self.phase = RoundPhase.STORING
            return Initialize(party=next(iter(self.accepted_updates)))
        if self.instructed - self.refused and now < self.deadline:
            return None
        # Another one, or the same in its second attempt: any party has the same initial model.
        return self._abandon() if now >= self.deadline else self._instruct_another(now)

    def _instruct_another(self, now: float) -> Command | None:
        others = self.present - self.refused
        if not others:
            return None
        deadline = self.deadline
        command = self._begin(RoundPhase.INITIAL, {min(others)}, now)
        self.deadline = deadline
        return command

    def _next_open(self, now: float) -> Command | None:
        if self._has_target_verdict():
            return self._finish()
        is_heard = (
            bool(self.evaluations) and self.evaluations.keys() >= self.instructed - self.refused
        )
        if is_heard and not self.is_evaluated:
            return self._conclude() or self._next_open(now)
        is_answered = self.accepted_updates.keys() | self.refused >= self.instructed
        has_quorum = len(self.accepted_updates) >= max(1, self.terms.rounds.min_parties)
        if now < self.deadline and not (is_answered and has_quorum):
            return None
        if not has_quorum:
            return self._abandon()
        if not self.is_evaluated:
            return self._conclude() or self._next_open(now)
        self._drop_silent()
        self.phase = RoundPhase.STORING
        return Aggregate(round=self.round, parties=tuple(sorted(self.accepted_updates)))

    def _abandon(self) -> AbandonRound:
        self._drop_silent()
        self.lost += 1
        self.phase, self.instructed = RoundPhase.WAITING, set()
        return AbandonRound(round=self.round, had=len(self.accepted_updates))

    def _drop_silent(self) -> None:
        """Who was asked and did not answer has to show that it is there."""
        self.present -= self.instructed - self.accepted_updates.keys() - self.refused

    def _next_final(self, now: float) -> Command | None:
        is_heard = bool(self.instructed) and self.evaluations.keys() >= self.instructed
        if not (is_heard and self._is_gathered(now)) and now < self.deadline:
            return None
        if not self.is_evaluated and (command := self._conclude()) is not None:
            return command
        return self._finish()

    def _conclude(self) -> KeepBest | None:
        """Draw the evaluations of the model in force together; the command if it is the best."""
        self.is_evaluated = True
        self.record = self.record.evaluated(mean(list(self.evaluations.values())))
        if self.target is None:
            return None
        before = self.record.best
        value = self.record.last.metrics.get(self.target.metric)
        self.record = self.record.judged(value, self.target.direction)
        return None if self.record.best == before else KeepBest(round=self.record.round)

    def _has_target_verdict(self) -> bool:
        """Whether the target metric of the model in force ends the federation."""
        if self.target is None or not self.is_evaluated:
            return False
        reached = is_reached(self.target, self.record.last.metrics)
        return reached or self.record.is_stale(self.terms.rounds.patience)

    def _is_over(self) -> bool:
        """Whether there is no further round."""
        if self.record.round < 0:
            return False
        is_last = self.record.round >= self.terms.rounds.max
        is_stale = self.target is None and self.record.is_stale(self.terms.rounds.patience)
        return is_last or is_stale

    def _finish(self) -> Finish:
        self.phase = RoundPhase.STORING
        self.instructed = set()
        best = self.record.best
        is_best = self.target is not None and best is not None
        return Finish(round=best.round if is_best and best else self.record.round)

    def _reset(self) -> None:
        self.instructed, self.refused = set(), set()
        self.accepted_updates, self.evaluations = {}, {}
        self.is_evaluated = False
        self.deadline = math.inf

    # --- who ------------------------------------------------------------------------------------

    def _has_quorum(self) -> bool:
        return len(self.present | self.accepted_updates.keys()) >= max(
            1, self.terms.rounds.min_parties
        )

    def _is_gathered(self, now: float) -> bool:
        if not self.present or not self._has_quorum():
            return False
        if self._gathered_until is None or self.terms.expected <= self.present:
            return True
        return now >= self._gathered_until

    def _chosen(self) -> set[str]:
        """Of those present, who is asked: a function of (seed, round) and of who they are."""
        share = math.ceil(self.terms.rounds.fraction * len(self.present) - 1e-9)
        count = max(share, self.terms.rounds.min_parties)
        return set(shuffled(self.present, self.seed, self.round)[:count])
