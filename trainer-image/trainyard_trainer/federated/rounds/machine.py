"""The state machine of a federation's rounds: events in, commands out.

It alone decides what must never happen: a round aggregated below its quorum, aggregated twice, or
waiting past its deadline. Times are arguments, in seconds of one monotonic clock. The caller
carries out the commands in order and calls back once a model is stored; until then no round opens.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from trainyard_trainer.contract.exits import Result
from trainyard_trainer.federated.rounds.events import (
    AbandonRound,
    AcceptedUpdate,
    Aggregate,
    Command,
    End,
    Evaluation,
    Finish,
    Initialize,
    KeepBest,
    OpenRound,
    RoundPhase,
    RoundSettings,
    mean_metrics,
    measured_by,
)
from trainyard_trainer.federated.rounds.history import FederationHistory, is_target_reached
from trainyard_trainer.federated.rounds.state import RoundState

PAUSE_SECONDS: Final = (1.0, 30.0)
"""Before a round that ended early below its quorum is announced again: doubled up to the second."""
JOIN_WINDOW_SECONDS: Final = 3.0
"""A term's first round opens with a quorum once no party has joined for this long."""


@dataclass(slots=True, kw_only=True)
class RoundMachine(RoundState):
    """The transitions of the rounds; each event returns the commands that follow."""

    # --- events ---------------------------------------------------------------------------------

    def joined(self, party: str, now: float) -> list[Command]:
        """A party is present and ready, perhaps again; one that was instructed is so again."""
        if party not in self.settings.parties:
            return []
        self.gone.discard(party)
        if party not in self.present:
            self.present.add(party)
            if self.join_window_end is not None:
                self.join_window_end = now + JOIN_WINDOW_SECONDS
        is_sampled = self.phase is RoundPhase.OPEN and party in self.sample()
        if is_sampled or self.phase is RoundPhase.FINAL:
            self.instructed.add(party)
        return self._advance(now)

    def left(self, party: str, now: float) -> list[Command]:
        """A party has left, or stopped polling while it was idle."""
        self.present.discard(party)
        if party not in self.updates:
            self.instructed.discard(party)
        if self.phase is RoundPhase.OPEN:
            self.instructed |= self.sample()  # With a fraction, another party replaces it.
        return self._advance(now)

    def lost(self, party: str, now: float) -> list[Command]:
        """A party's connections broke while it was to train: it has died, or comes back soon."""
        self.present.discard(party)
        if party in self.instructed - self.updates.keys() - self.refused:
            self.gone.add(party)
        if self.phase is RoundPhase.OPEN:
            self.instructed |= self.sample()
        return self._advance(now)

    def update_accepted(self, party: str, update: AcceptedUpdate, now: float) -> list[Command]:
        """A party's update of the round in flight is verified and spooled."""
        if self.awaits_update(party):
            self.updates[party] = update
            self.gone.discard(party)
            del self.missed[party]
        return self._advance(now)

    def answered_late(self, party: str, round_: int, now: float) -> None:
        """A party has an update of a closed round; within its deadline it lags no more.

        The others were not waiting for it, and may have been faster by a little.
        """
        if round_ == self.closed[0] and now < self.closed[1]:
            del self.missed[party]

    def update_refused(self, party: str, now: float) -> list[Command]:
        """A party's update of the round in flight was refused."""
        if self.awaits_update(party):
            self.refused.add(party)
        return self._advance(now)

    def update_left_out(self, party: str, now: float) -> list[Command]:
        """The round in flight could not be aggregated with this party's update."""
        if self.phase is RoundPhase.STORING and self.updates.pop(party, None) is not None:
            self.refused.add(party)
            self.diverged.add(party)
            self.phase = RoundPhase.OPEN
        return self._advance(now)

    def evaluated(
        self, party: str, round_: int, evaluation: Evaluation, now: float
    ) -> list[Command]:
        """A party has evaluated the model of `round_`."""
        is_current = round_ == self.history.round and not self.is_evaluated
        if is_current and party in self.settings.parties:
            self.evaluations[party] = evaluation
        return self._advance(now)

    def stored(self, history: FederationHistory, now: float) -> list[Command]:
        """The model of the round in flight is stored, and with it `history` (`next_history`)."""
        if self.phase is RoundPhase.STORING:
            self.round_seconds = now - self.opened_at
            self.history = history
            self.instructed, self.refused, self.diverged = set(), set(), set()
            self.updates, self.evaluations = {}, {}
            self.is_evaluated = False
            self.closed = (history.round, self.deadline)
            self.deadline, self.abandoned = math.inf, 0
            self.gone.clear()
            self.phase = RoundPhase.WAITING
        return self._advance(now)

    def finished(self, now: float) -> list[Command]:
        """The result is stored."""
        self.phase, self.result = RoundPhase.ENDED, Result.COMPLETE
        return [End(result=Result.COMPLETE), *self._advance(now)]

    def plan_changed(self, settings: RoundSettings, suspend: bool, now: float) -> list[Command]:
        """A Plan is in force; the round in flight keeps the deadline it was announced with."""
        self.settings, self.suspend = settings, suspend
        self.present &= set(settings.parties)
        if not suspend and self.result is Result.SUSPENDED:
            self.phase, self.result = RoundPhase.WAITING, None
            self.present.clear()  # The suspension ended them; others will join.
            self.join_window_end = now + JOIN_WINDOW_SECONDS
        return self._advance(now)

    def tick(self, now: float) -> list[Command]:
        """Time has passed."""
        return self._advance(now)

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
            return End(result=Result.SUSPENDED)
        if self._has_no_next_round():
            return self._open(RoundPhase.FINAL, self.present, now)
        if not self.can_open(now):
            return None
        self.join_window_end = None
        if self.history.round < 0:
            if self.present <= self.refused | self.updates.keys():
                self.refused.clear()
            candidates = self.present - self.refused
            first = min(candidates - self.updates.keys() or candidates)
            return self._open(RoundPhase.INITIAL, {first}, now)
        self.refused.clear()
        return self._open(RoundPhase.OPEN, {*self.sample(), *self.updates}, now)

    def _open(self, phase: RoundPhase, instructed: Collection[str], now: float) -> OpenRound:
        self.phase, self.instructed = phase, set(instructed)
        self.opened_at, self.deadline = now, now + self.settings.rounds.deadline_seconds
        return OpenRound(round=self.round)

    def _next_initial(self, now: float) -> Command | None:
        if (party := self._initial_party()) is not None:
            self.phase = RoundPhase.STORING
            return Initialize(party=party)
        answered = self.updates.keys() | self.refused
        if now >= self.deadline or answered >= set(self.settings.parties):
            return self._abandon(now)
        if self.instructed - answered - self.gone:
            return None
        return self._instruct_another(now)

    def _initial_party(self) -> str | None:
        """The party whose initial model is taken: one that needs no other, or that another has.

        Where the quorum is one party and nobody else is present, there is nobody to ask.
        """
        digests = Counter(update.digest for update in self.updates.values())
        for party in sorted(self.updates):
            digest = self.updates[party].digest
            if not digest or digests[digest] > 1:
                return party
        others = {name for name in self.present - self.refused if not self.is_lagging(name)}
        is_alone = len(self.updates) == 1 and others <= self.updates.keys()
        return min(self.updates) if is_alone and self.quorum == 1 else None

    def _instruct_another(self, now: float) -> Command | None:
        """Ask another party for the initial model: every party has the same."""
        others = self.present - self.refused - self.gone - self.updates.keys()
        if not others:
            return None
        deadline = self.deadline
        command = self._open(RoundPhase.INITIAL, {min(others)}, now)
        self.deadline = deadline
        return command

    def _next_open(self, now: float) -> Command | None:
        if self._stops_early():
            return self._finish()
        evaluated = self.evaluations.keys()
        if evaluated and evaluated >= self.awaited - self.refused and not self.is_evaluated:
            return self._close_evaluation() or self._next_open(now)
        answered, has_quorum = self.updates.keys() | self.refused, len(self.updates) >= self.quorum
        # Without a refusal the parties that are missing have left, and may be on their way back.
        is_hopeless = bool(self.refused) and answered >= self.instructed
        has_all_answers = answered >= self.awaited if has_quorum else is_hopeless
        if now < self.deadline and not has_all_answers:
            return None
        if not has_quorum:
            return self._abandon(now)
        if not self.is_evaluated:
            return self._close_evaluation() or self._next_open(now)
        self._drop_unresponsive()
        self.phase = RoundPhase.STORING
        return Aggregate(round=self.round, parties=tuple(sorted(self.updates)))

    def _abandon(self, now: float) -> AbandonRound:
        self._drop_unresponsive()
        self.rounds_lost += 1
        if now < self.deadline:
            pause = PAUSE_SECONDS[0] * 2.0 ** min(self.abandoned, 10)
            self.reopens_at = min(now + min(pause, PAUSE_SECONDS[1]), self.deadline)
        self.abandoned += 1
        self.gone.clear()
        self.phase, self.instructed, self.deadline = RoundPhase.WAITING, set(), math.inf
        return AbandonRound(
            round=self.round, updates=len(self.updates), mismatched=self._drop_mismatched()
        )

    def _drop_mismatched(self) -> tuple[str, ...]:
        """Drop initial models of which no two are the same; whose they are."""
        if self.round > 0 or len(self.updates) < 2:
            return ()
        parties = tuple(sorted(self.updates))
        self.updates.clear()
        return parties

    def _drop_unresponsive(self) -> None:
        """Count instructed parties that did not answer as absent until they poll again."""
        silent = self.instructed - self.updates.keys() - self.refused
        self.present -= silent
        self.missed.update((silent - self.gone) | (self.refused & self.instructed))

    def _next_final(self, now: float) -> Command | None:
        has_all = bool(self.evaluations) and self.evaluations.keys() >= self.awaited
        if not (has_all and self.can_open(now)) and now < self.deadline:
            return None
        if not self.is_evaluated and (command := self._close_evaluation()) is not None:
            return command
        return self._finish()

    def _close_evaluation(self) -> KeepBest | None:
        """Average the evaluations of the global model; the command if it is the best so far."""
        self.is_evaluated = True
        evaluations, before = list(self.evaluations.values()), self.history.best
        metrics = mean_metrics(evaluations, self.target.metric if self.target else "")
        self.history = self.history.with_metrics(metrics)
        if self.target is None:
            return None
        if len(measured_by(evaluations, self.target.metric)) < self.quorum:
            return None
        score = metrics.get(self.target.metric)
        self.history = self.history.with_score(score, self.target.direction)
        return None if self.history.best == before else KeepBest(round=self.history.round)

    def _stops_early(self) -> bool:
        """Whether the target metric of the global model ends the federation."""
        if self.target is None or not self.is_evaluated:
            return False
        return self._is_target_reached or self._is_patience_exhausted

    @property
    def _is_target_reached(self) -> bool:
        """Whether the mean of a quorum reaches the target and no single party decides that.

        Where the federation has several parties, a second one must have reached it on its own.
        """
        target = self.target
        if target is None or not is_target_reached(target, self.history.last_round.metrics):
            return False
        values = measured_by(self.evaluations.values(), target.metric)
        reached = sum(target.reached(value) for value in values)
        needed = min(2, len(self.settings.parties))
        return len(values) >= self.quorum and reached >= needed

    def _has_no_next_round(self) -> bool:
        if self.history.round < 0:
            return False
        is_last = self.history.round >= self.settings.rounds.max
        return is_last or (self.target is None and self._is_patience_exhausted)

    @property
    def _is_patience_exhausted(self) -> bool:
        return self.history.is_patience_exhausted(self.settings.rounds.patience)

    def _finish(self) -> Finish:
        self.phase, self.instructed = RoundPhase.STORING, set()
        best = self.history.best if self.target is not None else None
        return Finish(round=best.round if best is not None else self.history.round)
