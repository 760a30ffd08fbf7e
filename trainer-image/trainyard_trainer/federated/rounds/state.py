"""The state of a federation's rounds, and the questions that it answers."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Final

from trainyard_trainer.contract.config import Direction, Target
from trainyard_trainer.contract.exits import Result
from trainyard_trainer.contract.federated import PartyState
from trainyard_trainer.federated.rounds.events import (
    AcceptedUpdate,
    Evaluation,
    Instruction,
    RoundPhase,
    RoundSettings,
    mean_loss,
    shuffled,
)
from trainyard_trainer.federated.rounds.history import FederationHistory, RoundRecord

MAX_MISSED: Final = 3
"""A party that was refused or silent in as many rounds in a row is not waited for."""


@dataclass(slots=True, kw_only=True)
class RoundState:
    """The state of a federation's rounds."""

    settings: RoundSettings
    target: Target | None = None
    seed: int = 0
    local_epochs: int = 1
    history: FederationHistory = field(default_factory=FederationHistory)
    rounds_lost: int = 0
    """Rounds abandoned."""
    phase: RoundPhase = RoundPhase.WAITING
    result: Result | None = None
    present: set[str] = field(default_factory=set)
    instructed: set[str] = field(default_factory=set)
    """The parties selected for the round in flight."""
    updates: dict[str, AcceptedUpdate] = field(default_factory=dict)
    """Of the round in flight."""
    refused: set[str] = field(default_factory=set)
    """The parties whose update of the round in flight was refused."""
    diverged: set[str] = field(default_factory=set)
    """The parties whose updates were left out since the last stored round, as too large."""
    missed: Counter[str] = field(default_factory=Counter)
    """Rounds in a row in which a party that was instructed was refused or silent."""
    gone: set[str] = field(default_factory=set)
    """Instructed parties whose connections broke; an update of theirs is still accepted."""
    closed: tuple[int, float] = (-1, 0.0)
    """The last aggregated round, and when it would have closed at the latest."""
    abandoned: int = 0
    """Rounds abandoned in a row."""
    reopens_at: float = 0.0
    """When the next round may open, after one that was abandoned before its deadline."""
    evaluations: dict[str, Evaluation] = field(default_factory=dict)
    """Of the global model."""
    is_evaluated: bool = False
    """Whether the evaluations of the global model have been averaged."""
    suspend: bool = False
    opened_at: float = 0.0
    deadline: float = math.inf
    round_seconds: float = 0.0
    """From the last round's announcement to its stored model."""
    join_window_end: float | None = 0.0
    """None once a round was opened in this term."""

    @property
    def round(self) -> int:
        """The round in flight, or the next one."""
        return self.history.round + 1

    def next_tick_at(self, now: float) -> float:
        """When to call `tick`, at the latest."""
        times = [math.inf]
        if self.phase in (RoundPhase.INITIAL, RoundPhase.OPEN, RoundPhase.FINAL):
            times.append(self.deadline)
        if self.join_window_end is not None and self.join_window_end > now:
            times.append(self.join_window_end)
        if self.phase is RoundPhase.WAITING and self.reopens_at > now:
            times.append(self.reopens_at)
        return min(times)

    def instruction(self, party: str) -> Instruction:
        """What `party` is to do now."""
        if self.phase is RoundPhase.ENDED:
            return Instruction.END
        if party not in self.instructed or party in self.updates or party in self.refused:
            return Instruction.WAIT
        match self.phase:
            case RoundPhase.INITIAL:
                return Instruction.INITIAL
            case RoundPhase.OPEN:
                return Instruction.TRAIN
            case RoundPhase.FINAL if party not in self.evaluations:
                return Instruction.EVALUATE
        return Instruction.WAIT

    def is_lagging(self, party: str) -> bool:
        """Whether `party` is asked, but not waited for, as it failed several rounds in a row."""
        return self.missed[party] >= MAX_MISSED

    @property
    def awaited(self) -> set[str]:
        """The instructed parties that a round with a quorum waits for."""
        return {name for name in self.instructed - self.gone if not self.is_lagging(name)}

    def awaits_update(self, party: str) -> bool:
        """Whether an update of `party` would be accepted."""
        return self.instruction(party) in (Instruction.INITIAL, Instruction.TRAIN)

    def party_state(self, party: str) -> PartyState:
        """What `party` is doing."""
        if party in self.updates:
            return PartyState.DELIVERED
        if party in self.refused:
            return PartyState.REFUSED
        if self.instruction(party) not in (Instruction.WAIT, Instruction.END):
            if party in self.gone:
                return PartyState.ABSENT
            return PartyState.LAGGING if self.is_lagging(party) else PartyState.TRAINING
        return PartyState.IDLE if party in self.present else PartyState.ABSENT

    def next_history(self, now: float) -> FederationHistory:
        """The history with the round in flight, to be stored with its model."""
        history = replace(
            self.history,
            generation=max(self.history.generation, self.settings.generation),
            fencing_token=max(self.history.fencing_token, self.settings.fencing_token),
        )
        seconds = now - self.opened_at
        if self.round == 0:
            return history.with_round(RoundRecord(round=0, seconds=seconds), {}, 0)
        samples = {name: update.samples for name, update in self.updates.items()}
        record = RoundRecord(
            round=self.round,
            parties=len(samples),
            samples=sum(samples.values()),
            loss=mean_loss([self.updates[name] for name in sorted(self.updates)]),
            seconds=seconds,
        )
        history = history.with_round(record, samples, self.local_epochs)
        return history.with_score(record.loss, Direction.MIN) if self.target is None else history

    @property
    def quorum(self) -> int:
        """The fewest updates that a round is aggregated with."""
        return max(1, self.settings.rounds.min_parties)

    def can_open(self, now: float) -> bool:
        """Whether a quorum is present and, in a term's first round, nobody else is awaited."""
        if not self.present or len(self.present | self.updates.keys()) < self.quorum:
            return False
        if now < self.reopens_at:
            return False
        if self.join_window_end is None or self.settings.expected <= self.present:
            return True
        return now >= self.join_window_end

    def sample(self) -> set[str]:
        """The parties selected among those present: a function of (seed, round) and their names.

        Lagging parties are selected in addition, so that they can show that they are back.
        """
        lagging = {name for name in self.present if self.is_lagging(name)}
        share = math.ceil(self.settings.rounds.fraction * len(self.present) - 1e-9)
        count = max(share, self.settings.rounds.min_parties)
        chosen = shuffled(self.present - lagging, self.seed, self.round)[:count]
        return lagging.union(chosen)
