"""The rounds' commands carried out: updates aggregated, models and results made durable."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Iterable
from typing import assert_never

from trainyard_trainer.contract.federated import FederatedConfig, RefusalReason
from trainyard_trainer.federated.aggregation.aggregate import AggregateNotFinite, Update
from trainyard_trainer.federated.rounds.events import (
    AbandonRound,
    Aggregate,
    Command,
    End,
    Finish,
    Initialize,
    KeepBest,
    OpenRound,
)
from trainyard_trainer.federated.rounds.history import FederationHistory
from trainyard_trainer.federated.rounds.machine import RoundMachine
from trainyard_trainer.federated.server.payloads import result_of
from trainyard_trainer.federated.server.spool import ReceivedUpdate
from trainyard_trainer.federated.server.store import RoundStore
from trainyard_trainer.runtime.exits import Diverged

log = logging.getLogger(__name__)


class CommandExecutor:
    """Executes the commands of one `RoundMachine`, one at a time; disk work runs in a thread."""

    def __init__(
        self,
        config: FederatedConfig,
        machine: RoundMachine,
        store: RoundStore,
        refusals: Counter[tuple[str, str]],
    ) -> None:
        """`store` is marked as in progress; `refusals` are counted by party and reason."""
        self._refusals = refusals
        self._config, self._machine, self._store = config, machine, store
        self._updates: dict[str, ReceivedUpdate] = {}
        self._is_in_progress = True

    def add(self, party: str, update: ReceivedUpdate) -> None:
        """Keep an update of the round in flight, in place of an earlier one of the same party."""
        self._discard(party)
        self._updates[party] = update

    async def execute(self, command: Command) -> list[Command]:
        """Carry out a command; returns the commands that follow from its completion.

        Raises Fenced, and OSError when the state directory cannot be written.
        """
        match command:
            case OpenRound(round=number):
                if not self._is_in_progress:  # The federation was suspended.
                    await self._mark(in_progress=True)
                machine = self._machine
                log.info("%s of round %d instructs %s", machine.phase, number, machine.instructed)
            case Initialize(party=party):
                return await self._initialize(party)
            case Aggregate(parties=parties):
                return await self._aggregate(parties)
            case AbandonRound(round=number, updates=count, mismatched=mismatched):
                log.warning("round %d abandoned with %d updates", number, count)
                self._refuse_initial(mismatched)
                await self._mark(in_progress=True)
            case KeepBest():
                best = self._machine.history.best
                assert best is not None  # noqa: S101 -- what the command is about
                await asyncio.to_thread(self._store.keep_best, best)
            case Finish(round=number):
                return await self._finish(number)
            case End(result=result):
                await self._mark(in_progress=False)
                log.info("the federation has ended: %s", result)
            case _:
                assert_never(command)
        return []

    async def _mark(self, *, in_progress: bool) -> None:
        """Record durably whether a round may be in flight, so that a crash is recognized."""
        await asyncio.to_thread(
            self._store.mark, self._machine.rounds_lost, in_progress=in_progress
        )
        self._is_in_progress = in_progress

    async def _initialize(self, party: str) -> list[Command]:
        update = self._updates[party]
        updates = self._machine.updates
        differing = [name for name in updates if updates[name].digest != updates[party].digest]
        self._refuse_initial(differing)
        history = self._machine.next_history(_now())
        await asyncio.to_thread(
            self._store.initialize, update.layout, update.tensors.read(), history
        )
        return self._close_round(history)

    def _refuse_initial(self, parties: Iterable[str]) -> None:
        for party in parties:
            log.warning("the initial model of %s is not that of another party", party)
            self._refusals[party, RefusalReason.INITIAL.value] += 1
            self._discard(party)

    async def _aggregate(self, parties: tuple[str, ...]) -> list[Command]:
        history = self._machine.next_history(_now())
        updates = [_update_of(name, self._updates[name]) for name in parties]
        try:
            await asyncio.to_thread(self._store.aggregate, updates, history)
        except AggregateNotFinite as error:
            return self._leave_out_largest(parties, tensor=str(error))
        last = history.last_round
        log.info("round %d: %d parties, loss %s", last.round, last.parties, last.loss)
        return self._close_round(history)

    def _leave_out_largest(self, parties: tuple[str, ...], tensor: str) -> list[Command]:
        """Have the round go on without the update of the largest norm, naming its party.

        Raises Diverged once too few parties are left whose updates could be aggregated.
        """
        machine = self._machine
        party = max(parties, key=lambda name: (self._updates[name].norm, name))
        norm = self._updates[party].norm
        what = f"round {machine.round}: {tensor} would hold NaN or an infinity with the updates"
        log.warning("%s; left out is that of %s, of norm %.4g", what, party, norm)
        self._refusals[party, RefusalReason.DIVERGED.value] += 1
        self._discard(party)
        following = machine.update_left_out(party, _now())
        if len(set(machine.settings.parties) - machine.diverged) < machine.quorum:
            raise Diverged(
                f"{what} of {', '.join(sorted(machine.diverged))}, and too few other parties are "
                f"left; the model of round {machine.history.round} is kept: try a lower learning "
                "rate or another strategy"
            )
        return following

    def _close_round(self, history: FederationHistory) -> list[Command]:
        for party in list(self._updates):
            self._discard(party)
        return self._machine.stored(history, _now())

    def _discard(self, party: str) -> None:
        if (update := self._updates.pop(party, None)) is not None:
            update.tensors.discard()

    async def _finish(self, number: int) -> list[Command]:
        machine = self._machine
        result = result_of(self._config, machine.history, number, machine.rounds_lost)
        result["finished_at"] = time.time()
        await asyncio.to_thread(self._store.finish, number, result)
        return machine.finished(_now())


def _update_of(party: str, received: ReceivedUpdate) -> Update:
    return Update(party=party, weight=received.metadata.weight, data=received.tensors.read())


def _now() -> float:
    return asyncio.get_running_loop().time()
