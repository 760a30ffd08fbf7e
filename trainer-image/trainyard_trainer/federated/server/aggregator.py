"""One federation's aggregator: the round machine with its store, its spool and a clock.

It is independent of HTTP, which only calls it. Commands are carried out one at a time, in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections import Counter
from pathlib import Path
from typing import Final

from trainyard_trainer.contract.exits import Result, TerminationMessage
from trainyard_trainer.contract.federated import (
    FederatedConfig,
    FederatedPlan,
    RefusalReason,
)
from trainyard_trainer.contract.plan import AcceptPlan, StalePlan, plan_precedence
from trainyard_trainer.federated.aggregation.strategies import make_strategy
from trainyard_trainer.federated.protocol.layout import MAX_HEADER_BYTES, Layout
from trainyard_trainer.federated.protocol.messages import (
    EvaluationReport,
    RoundAnnouncement,
    UpdateMetadata,
)
from trainyard_trainer.federated.protocol.wire import UpdateRefused
from trainyard_trainer.federated.rounds.events import (
    AcceptedUpdate,
    Command,
    End,
    Evaluation,
    Instruction,
    OpenRound,
    RoundPhase,
    RoundSettings,
)
from trainyard_trainer.federated.rounds.machine import RoundMachine
from trainyard_trainer.federated.server.commands import CommandExecutor
from trainyard_trainer.federated.server.connections import Connections
from trainyard_trainer.federated.server.initial import InitialRules, StartingModel
from trainyard_trainer.federated.server.payloads import termination_message, train_config_of
from trainyard_trainer.federated.server.spool import Spool, UpdateUpload, spooled_bytes
from trainyard_trainer.federated.server.store import ModelFile, RoundStore, model_file
from trainyard_trainer.runtime.exits import Fenced, StateUnusable

log = logging.getLogger(__name__)

SILENCE_SECONDS: Final = 10.0
"""An idle party that has not polled for this long is absent."""
MAX_TERMS_AHEAD: Final = 1_000
"""No federation has as many restarts while one of its aggregators lives."""
GONE_SECONDS: Final = 3.0
"""A party without any connection for this long has died, or is cut off."""
DRAIN_SECONDS: Final = 10.0
"""How long an aggregator that is done waits for its parties to learn of the end."""


class Aggregator:
    """One federation's aggregator; `run` carries out what its events entail."""

    def __init__(self, config: FederatedConfig, term: int, directory: Path) -> None:
        """Take over the state directory and resume; raises Fenced, StateUnusable or TaskInvalid."""
        self.config, self.term = config, term
        self.strategy = make_strategy(config.strategy)
        try:
            self.store = RoundStore(directory, term, self.strategy)
            self._spool = Spool(self.store.open_spool())
            rounds_lost = 0 if self.store.result else self.store.mark_in_progress()
        except OSError as error:
            raise StateUnusable(
                f"the state directory {directory} cannot be used: {error}"
            ) from error
        self.parties = {party.name: party for party in config.parties}
        self.connections = Connections(self.parties)
        self.plan: FederatedPlan | None = None
        self.machine = RoundMachine(
            settings=RoundSettings.of(config),
            target=config.target,
            seed=config.seed,
            local_epochs=config.local_epochs,
            history=self.store.history,
            rounds_lost=rounds_lost,
        )
        self.init = self.store.find_init(config.init) if self.store.model is None else None
        self.refusals: Counter[tuple[str, str]] = Counter()
        """By party and reason."""
        self._executor = CommandExecutor(config, self.machine, self.store, self.refusals)
        self._commands: asyncio.Queue[Command] = asyncio.Queue()
        self._changed = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Fails with what ends this process early."""
        self.closed = asyncio.Event()
        """Set when the rounds have ended, in completion or in a suspension."""
        if self.store.result:
            self.machine.phase, self.machine.result = RoundPhase.ENDED, Result.COMPLETE
            self.closed.set()

    @property
    def now(self) -> float:
        """The clock of the rounds."""
        return asyncio.get_running_loop().time()

    # --- commands -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Carry out commands until cancelled; an error ends the process."""
        sweep = asyncio.create_task(self._sweep_absent())
        sweep.add_done_callback(self._fail_with_task)
        try:
            while True:
                command = await self._commands.get()
                following = await self._executor.execute(command)
                if isinstance(command, End):
                    self.closed.set()
                self._apply(following)
        except OSError as error:
            self.fail(StateUnusable(f"the state directory cannot be written: {error}"))
        except Exception as error:  # Any other one as well: nothing would go on without this task.
            self.fail(error)
        finally:
            sweep.cancel()

    def _fail_with_task(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """End the process with this error."""
        if not self.ended.done():
            self.ended.set_exception(error)

    def _apply(self, commands: list[Command]) -> None:
        """Queue the commands of an event, wake waiting polls and set the next timer."""
        for command in commands:
            self._commands.put_nowait(command)
            if isinstance(command, OpenRound):
                self.connections.start_round()
        if commands:
            self._changed.set()
            self._changed = asyncio.Event()
        if self._timer is not None:
            self._timer.cancel()
        if (at := self.machine.next_tick_at(self.now)) < math.inf:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(at, self._tick)

    def _tick(self) -> None:
        try:
            self._apply(self.machine.tick(self.now))
        except Exception as error:  # The event loop would log it, and no timer be set again.
            self.fail(error)

    # --- parties --------------------------------------------------------------------------------

    def seen(self, party: str, term: int) -> None:
        """A request of `party` has arrived, which has seen `term`.

        Where the state directory outlives the pod, its term file alone fences this aggregator.
        Elsewhere the parties do, but a single one could stop a federation with a made-up term, so
        it takes a majority of them, and two of several. Raises UpdateRefused for a term that cannot
        be true.
        """
        if not 0 <= term <= self.term + MAX_TERMS_AHEAD:
            self.refusals[party, RefusalReason.TERM.value] += 1
            text = f"it claims to know of term {term}; this aggregator has {self.term}"
            raise UpdateRefused(RefusalReason.TERM, text)
        connection = self.connections[party]
        connection.seen_at, connection.term = self.now, term
        higher = self.connections.terms_above(self.term)
        count = len(self.parties)
        needed = min(count, max(2, count // 2 + 1))
        if not self.config.durable and len(higher) >= needed:
            text = f"{len(higher)} parties know of term {max(higher)}; this one has {self.term}"
            self.fail(Fenced(text))

    def joined(self, party: str) -> None:
        """`party` is there and ready to train."""
        self._apply(self.machine.joined(party, self.now))

    def left(self, party: str) -> None:
        """`party` has left, or its connection broke."""
        self._apply(self.machine.left(party, self.now))

    async def wait_for_instruction(self, party: str, seconds: float) -> bool:
        """Wait for at most `seconds` until `party` has something to do; whether it has.

        Being cancelled means that the connection broke: with its last poll a party has left.
        """
        connection, end = self.connections[party], self.now + seconds
        connection.polls += 1
        try:
            while self._is_waiting(party) and self.now < end:
                await self.wait_for_change(end - self.now)
        except asyncio.CancelledError:
            if connection.polls == 1:
                self.left(party)
            raise
        finally:
            connection.polls -= 1
            connection.seen_at = self.now
        return not self._is_waiting(party)

    def _is_waiting(self, party: str) -> bool:
        return self.machine.instruction(party) is Instruction.WAIT

    async def wait_for_change(self, seconds: float) -> None:
        """Wait for at most `seconds` until instructions may have changed."""
        changed = self._changed
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await changed.wait()

    async def _sweep_absent(self) -> None:
        """Mark parties as absent whose connections broke, or that are idle and do not poll."""
        while True:
            await asyncio.sleep(min(GONE_SECONDS, SILENCE_SECONDS) / 4)
            for party in self.connections.broken(self.now, GONE_SECONDS):
                log.warning("the connection of %s broke", party)
                self._apply(self.machine.lost(party, self.now))
            silent = self.connections.silent_since(self.now - SILENCE_SECONDS)
            for party in silent & self.machine.present:
                if self._is_waiting(party):
                    self.left(party)

    def announcement(self, party: str) -> RoundAnnouncement:
        """The instruction for `party` in the round in flight."""
        machine, model = self.machine, self.store.model
        instruction = machine.instruction(party)
        if instruction is Instruction.END:
            self.connections[party].knows_end = True
        return RoundAnnouncement(
            term=self.term,
            instruction=instruction,
            round=machine.round,
            config=train_config_of(self.config, self.strategy.local_settings, self.parties[party]),
            seconds=max(0.0, self.deadline - self.now) if self.deadline is not None else 0.0,
            model=model.sha256 if model is not None else "init" if self.init else "",
            evaluate=not machine.is_evaluated and party not in machine.evaluations,
            result=machine.result,
        )

    @property
    def deadline(self) -> float | None:
        """When the round in flight closes; None without one."""
        return self.machine.deadline if self.machine.deadline < math.inf else None

    @property
    def transfer_deadline(self) -> float:
        """When a transfer that begins now is cut off: with the round, and always at some time."""
        if self.deadline is not None:
            return self.deadline
        return self.now + self.machine.settings.rounds.deadline_seconds

    # --- models and updates ---------------------------------------------------------------------

    async def model_to_send(self) -> ModelFile | None:
        """The global model's file; before there is one, the job's starting model if it has any."""
        if self.store.model is not None or self.init is None:
            return self.store.model
        return await asyncio.to_thread(model_file, self.init)

    def sent(self, party: str, size: int) -> None:
        """A model of `size` bytes was sent to `party`."""
        self.connections[party].sent_bytes += size

    def expects_update(self, party: str, term: int, number: int) -> bool:
        """Whether to receive an update for round `number`; False if it is stored already.

        Raises UpdateRefused when `party` should not send one.
        """
        machine = self.machine
        is_current = (term, number) == (self.term, machine.round)
        if is_current and party in machine.updates:
            return False
        is_awaited = machine.awaits_update(party)
        if not (is_current and is_awaited):
            self._note_late(party, term, number)
            awaited = machine.round if is_awaited else "none"
            text = f"it is of round {number} of term {term}; awaited is {awaited}"
            raise UpdateRefused(RefusalReason.ROUND, f"{text} of term {self.term}")
        return True

    @property
    def max_update_bytes(self) -> int:
        """More than any update has."""
        return MAX_HEADER_BYTES + (self.store.model.size if self.store.model is not None else 0)

    def open_upload(self) -> UpdateUpload:
        """A receiver for one update."""
        model = self.store.model
        if model is not None:
            return UpdateUpload(self._spool, model.layout, model.data)
        start = StartingModel(self.init) if self.init is not None else None
        rules = InitialRules(
            start=start,
            required_bytes=self._required_bytes,
            free_bytes=self._spool.free_bytes,
        )
        return UpdateUpload(self._spool, None, None, rules)

    def _required_bytes(self, layout: Layout) -> int:
        return self.store.required_bytes(layout) + spooled_bytes(len(self.parties) * layout.size)

    def accept(self, party: str, upload: UpdateUpload, number: int) -> None:
        """Accept a fully received update for round `number`; raises UpdateRefused."""
        self._check_round(party, upload.metadata, number)
        update = upload.close()
        metadata, connection = update.metadata, self.connections[party]
        connection.response_seconds = self.now - self.machine.opened_at
        connection.received_bytes += update.tensors.size
        self._executor.add(party, update)
        log.info("update of %s for round %d: norm %.4g", party, number, upload.norm)
        # A single party has nobody to agree with.
        digest = update.digest if len(self.parties) > 1 else ""
        accepted = AcceptedUpdate(samples=metadata.samples, loss=metadata.loss, digest=digest)
        self._apply(self.machine.update_accepted(party, accepted, self.now))

    def _note_late(self, party: str, term: int, number: int) -> None:
        if term == self.term:
            self.machine.answered_late(party, number, self.now)

    def _check_round(self, party: str, metadata: UpdateMetadata | None, number: int) -> None:
        """Raise UpdateRefused if the round has closed, or the header names another one."""
        if metadata is not None and (metadata.term, metadata.round) != (self.term, number):
            text = f"its header is of round {metadata.round}, term {metadata.term}"
            raise UpdateRefused(RefusalReason.ROUND, text)
        if self.machine.round != number:
            self._note_late(party, self.term, number)
            raise UpdateRefused(RefusalReason.ROUND, f"round {number} has closed")

    def refuse(self, party: str, reason: RefusalReason) -> None:
        """An update was refused; one that was only corrupted in transit may be sent again."""
        is_over = self.machine.phase in (RoundPhase.STORING, RoundPhase.ENDED)
        if reason is RefusalReason.ROUND and is_over:
            return  # The target was reached meanwhile: the party did nothing wrong.
        self.refusals[party, reason.value] += 1
        if reason is RefusalReason.ROUND:
            return
        is_corrupt = reason in (RefusalReason.SIZE, RefusalReason.CHECKSUM)
        connection = self.connections[party]
        connection.corrupt_uploads += is_corrupt
        if not (is_corrupt and connection.may_resend):
            self._apply(self.machine.update_refused(party, self.now))

    def evaluate(self, party: str, report: EvaluationReport) -> None:
        """Take a party's evaluation of the model in force; one of another term is ignored."""
        if report.term != self.term:
            return
        metrics = {name: value for name, value in report.metrics.items() if value is not None}
        evaluation = Evaluation(samples=report.samples, metrics=metrics)
        self._apply(self.machine.evaluated(party, report.round, evaluation, self.now))

    def refuse_evaluation(self, party: str) -> None:
        """An evaluation was refused: no round waits for another one of this party."""
        self.refusals[party, RefusalReason.EVALUATION.value] += 1
        machine = self.machine
        nothing = Evaluation(samples=0, metrics={})
        if party not in machine.evaluations:
            self._apply(machine.evaluated(party, machine.history.round, nothing, self.now))

    # --- the operator ---------------------------------------------------------------------------

    def check_plan(self, plan: FederatedPlan) -> AcceptPlan | StalePlan:
        """Whether `plan` may replace the one in force, or the last one that was stored."""
        history = self.machine.history
        return plan_precedence(
            self.plan,
            plan,
            generation_floor=history.generation,
            token_floor=history.fencing_token,
        )

    def set_plan(self, plan: FederatedPlan) -> None:
        """Put a Plan in force, for the rounds to come."""
        self.plan = plan
        self.parties = {party.name: party for party in plan.parties}
        self.connections.add(self.parties)
        if self.machine.result is Result.SUSPENDED and not plan.suspend:
            self.closed.clear()
            self.connections.resume()
        settings = RoundSettings.of(plan)
        self._apply(self.machine.plan_changed(settings, plan.suspend, self.now))

    async def wait_for_parties(self) -> None:
        """Wait until the rounds have ended and every party that is present knows."""
        await self.closed.wait()
        end = self.now + DRAIN_SECONDS
        while self.now < end and not self.connections.know_end(self.machine.present):
            await self.wait_for_change(0.1)

    def termination_message(self) -> TerminationMessage:
        """The state of the federation as its aggregator ends."""
        return termination_message(self.machine.history, self.machine.result, self.store.result)
