"""An aggregator: the course of the rounds with its archive, its spool and a clock.

It stands apart from HTTP, which only brings events here, so that another transport can take its
place. Commands are carried out one at a time, in their order; folding and storing run in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from trainyard_trainer.contract.exits import Result
from trainyard_trainer.contract.federated import (
    FederatedConfig,
    FederatedPlan,
    PartyConfig,
    RefusalReason,
)
from trainyard_trainer.federated.aggregation.aggregate import Update
from trainyard_trainer.federated.aggregation.strategies import make
from trainyard_trainer.federated.protocol.messages import (
    EvaluationReport,
    RoundAnnouncement,
    UpdateMetadata,
)
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
)
from trainyard_trainer.federated.rounds.history import FederationHistory
from trainyard_trainer.federated.rounds.machine import RoundMachine
from trainyard_trainer.federated.server.payloads import summary, train_config_of
from trainyard_trainer.federated.server.spool import Spool, SpooledUpdate, UpdateUpload
from trainyard_trainer.federated.server.store import RoundStore
from trainyard_trainer.runtime.exits import Fenced, StateUnusable

log = logging.getLogger(__name__)

SILENCE_SECONDS: Final = 10.0
"""Who has nothing to do and does not ask for so long has gone."""
REPEATS: Final = 3
"""So often an update that was damaged on its way may be sent again in a round."""
DRAIN_SECONDS: Final = 10.0
"""When all is over, parties get so long to hear of it."""
READING_SECONDS: Final = 15.0
"""And so long whoever reads the metrics, to read the last ones: three of its usual intervals."""


@dataclass(slots=True)
class PartyConnection:
    """What is known of a party beside its part in the rounds."""

    heard_at: float = -math.inf
    polls: int = 0
    """Connections on which it waits now."""
    told_end: bool = False
    damaged: int = 0
    """Updates of the round in flight that were damaged on their way."""
    received: int = 0
    """Bytes of updates."""
    sent: int = 0
    """Bytes of models."""
    seconds: float | None = None
    """From a round's announcement to its update being verified, last time."""


class Aggregator:
    """One federation's aggregator; `work` runs it."""

    def __init__(self, config: FederatedConfig, term: int, directory: Path) -> None:
        """Claim the state directory and resume; raises Fenced, StateUnusable or TaskInvalid."""
        self.config, self.term = config, term
        self.strategy = make(config.strategy)
        try:
            self.archive = RoundStore(directory, term, self.strategy)
            self._spool = Spool(self.archive.spool())
            lost = 0 if self.archive.result else self.archive.mark_in_progress()
        except OSError as error:
            raise StateUnusable(
                f"the state directory {directory} cannot be used: {error}"
            ) from error
        self.parties: dict[str, PartyConfig] = {}
        self.course = RoundMachine(
            terms=self._terms(config.rounds, config.parties),
            target=config.target,
            seed=config.seed,
            local_epochs=config.local_epochs,
            record=self.archive.record,
            lost=lost,
        )
        if self.archive.result:
            self.course.phase, self.course.result = RoundPhase.ENDED, Result.COMPLETE
        self.init = self.archive.find_init(config.init) if self.archive.model is None else None
        self.plan: FederatedPlan | None = None
        self.contacts: dict[str, PartyConnection] = {
            name: PartyConnection() for name in self.parties
        }
        self.refusals: Counter[tuple[str, str]] = Counter()
        """By party and reason."""
        self._drafts: dict[str, tuple[UpdateMetadata, SpooledUpdate, UpdateUpload]] = {}
        self._commands: asyncio.Queue[Command] = asyncio.Queue()
        self._waiting: set[asyncio.Future[None]] = set()
        self._is_sitting = True
        self._timer: asyncio.TimerHandle | None = None
        self._claims: dict[str, int] = {}
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Fails with what ends this process early."""
        self.closed = asyncio.Event()
        """Set when the rounds have ended, well or in a suspension."""
        self._is_read = False
        """Whether anybody reads the metrics."""
        self._end_read = asyncio.Event()
        if self.course.phase is RoundPhase.ENDED:
            self.closed.set()

    @property
    def now(self) -> float:
        """The clock of the rounds."""
        return asyncio.get_running_loop().time()

    # --- events ---------------------------------------------------------------------------------

    def apply(self, commands: list[Command]) -> None:
        """Put what follows from an event in line, and wake who may be asked for something."""
        for command in commands:
            self._commands.put_nowait(command)
        if commands:
            self.wake()
        if self._timer is not None:
            self._timer.cancel()
        if (when := self.course.wakes_at(self.now)) < math.inf:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(when, lambda: self.apply(self.course.tick(self.now)))

    def wake(self) -> None:
        """Let all who wait look again."""
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)

    async def changed(self, seconds: float) -> None:
        """Wait until a party may be asked for something new, at most for `seconds`."""
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.add(waiting)
        try:
            await asyncio.wait({waiting}, timeout=seconds)
        finally:
            self._waiting.discard(waiting)

    def hear(self, party: str, term: int) -> None:
        """A party speaks, and knows of `term`."""
        self.contacts[party].heard_at = self.now
        self._claims[party] = term
        higher = [name for name, claim in self._claims.items() if claim > self.term]
        # One party alone could stop a federation by claiming one; as many as make a model may.
        if len(higher) >= self.course.terms.rounds.min_parties and not self.ended.done():
            highest = max(self._claims.values())
            text = f"{len(higher)} parties know of term {highest}; this one has {self.term}"
            self.ended.set_exception(Fenced(text))

    def accept(self, party: str, upload: UpdateUpload) -> None:
        """An update has come whole and verified; raises Refused when it is not."""
        note, draft = upload.close()
        contact = self.contacts[party]
        contact.seconds = self.now - self.course.opened
        contact.received += draft.size
        self._drop(party)
        self._drafts[party] = note, draft, upload
        delivery = AcceptedUpdate(
            samples=note.samples, weight=note.weight, loss=note.loss, at=contact.seconds
        )
        log.info("update of %s for round %d: norm %.4g", party, note.round, upload.norm)
        self.apply(self.course.accepted(party, delivery, self.now))

    def refuse(self, party: str, refusal: RefusalReason) -> None:
        """An update was refused; one that was only damaged on its way may be sent again."""
        contact = self.contacts[party]
        if refusal is RefusalReason.ROUND and self.course.phase in (
            RoundPhase.STORING,
            RoundPhase.ENDED,
        ):
            return  # The target was reached meanwhile: nothing is wrong with the party.
        self.refusals[party, refusal.value] += 1
        contact.damaged += refusal in (RefusalReason.SIZE, RefusalReason.CHECKSUM)
        may_repeat = (
            refusal in (RefusalReason.SIZE, RefusalReason.CHECKSUM) and contact.damaged <= REPEATS
        )
        if refusal is not RefusalReason.ROUND and not may_repeat:
            self.apply(self.course.refuse(party, self.now))

    def evaluate(self, party: str, report: EvaluationReport) -> None:
        """A party has evaluated a model."""
        metrics = {k: v for k, v in report.metrics.items() if v is not None and math.isfinite(v)}
        found = Evaluation(samples=report.samples, metrics=metrics)
        self.apply(self.course.evaluate(party, report.round, found, self.now))

    def follow(self, plan: FederatedPlan) -> None:
        """Take a Plan for the rounds to come."""
        self.plan = plan
        terms = self._terms(plan.rounds, plan.parties)
        for name in self.parties:
            self.contacts.setdefault(name, PartyConnection())
        if self.course.result is Result.SUSPENDED and not plan.suspend:
            self.closed.clear()
            self._end_read.clear()
            for contact in self.contacts.values():
                contact.told_end = False
        self.apply(self.course.planned(terms, plan.suspend, self.now))

    def spool(self) -> UpdateUpload:
        """Where the next update goes."""
        model = self.archive.model
        layout, base = (model.layout, model.data) if model is not None else (None, None)
        return UpdateUpload(self._spool, layout, base)

    # --- questions ------------------------------------------------------------------------------

    def announcement(self, party: str) -> RoundAnnouncement:
        """What `party` is told now."""
        course, model = self.course, self.archive.model
        ask = course.instruction(party)
        if ask is Instruction.END:
            self.contacts[party].told_end = True
        return RoundAnnouncement(
            term=self.term,
            instruction=ask,
            round=course.round,
            config=train_config_of(self.config, self.strategy.local, self.parties[party]),
            seconds=max(0.0, course.deadline - self.now) if course.deadline < math.inf else 0.0,
            model=model.sha256 if model is not None else "init" if self.init else "",
            evaluate=not course.is_evaluated and party not in course.evaluations,
            result=course.result,
        )

    def _terms(self, rounds: Any, parties: tuple[PartyConfig, ...]) -> RoundSettings:
        self.parties = {party.name: party for party in parties}
        expected = frozenset(party.name for party in parties if not party.external)
        return RoundSettings(rounds=rounds, parties=tuple(self.parties), expected=expected)

    # --- work -----------------------------------------------------------------------------------

    async def train_config(self) -> None:
        """Carry out commands for ever; what goes wrong ends the process."""
        sweep = asyncio.create_task(self._sweep())
        try:
            while True:
                await self._execute(await self._commands.get())
        except OSError as error:
            self.fail(StateUnusable(f"the state directory cannot be written: {error}"))
        except Exception as error:  # Whatever it is: without this task nothing would go on.
            self.fail(error)
        finally:
            sweep.cancel()

    def fail(self, error: Exception) -> None:
        """Have the process end with it."""
        if not self.ended.done():
            self.ended.set_exception(error)

    async def _execute(self, command: Command) -> None:
        match command:
            case OpenRound(round=number):
                await self._open()
                log.info(
                    "%s of round %d asks %s", self.course.phase, number, self.course.instructed
                )
            case Initialize(party=party):
                await self._initialize(party)
            case Aggregate(parties=parties):
                await self._aggregate(parties)
            case AbandonRound(round=number, had=had):
                log.warning("round %d given up at its deadline with %d updates", number, had)
                await self._mark(is_open=True)
            case KeepBest():
                best = self.course.record.best
                assert best is not None  # noqa: S101 -- what the command is about
                await asyncio.to_thread(self.archive.keep_best, best)
            case Finish(round=number):
                await self._finish(number)
            case End(result=result):
                await self._mark(is_open=False)
                log.info("the federation has ended: %s", result)
                self.closed.set()

    async def _open(self) -> None:
        for contact in self.contacts.values():
            contact.damaged = 0
        if not self._is_sitting:  # It was suspended, and goes on.
            await self._mark(is_open=True)

    async def _mark(self, *, is_open: bool) -> None:
        """Keep on disk whether a round may be in flight, for whoever comes after a crash."""
        await asyncio.to_thread(self.archive.mark, self.course.lost, is_open=is_open)
        self._is_sitting = is_open

    async def _initialize(self, party: str) -> None:
        _, draft, upload = self._drafts[party]
        record = self._next_record()
        await asyncio.to_thread(self.archive.initialize, upload.layout, draft.read(), record)
        self._close_round(record)

    async def _aggregate(self, parties: tuple[str, ...]) -> None:
        record = self._next_record()
        held = {name: self._drafts[name] for name in parties}
        updates = [
            Update(party=name, weight=note.weight, data=draft.read())
            for name, (note, draft, _) in held.items()
        ]
        await asyncio.to_thread(self.archive.aggregate, updates, record)
        past = record.last
        log.info("round %d: %d parties, loss %s", past.round, past.parties, past.loss)
        self._close_round(record)

    async def _finish(self, number: int) -> None:
        told = summary(self.config, self.course.record, number, self.course.lost)
        await asyncio.to_thread(self.archive.finish, number, {**told, "finished_at": time.time()})
        self.apply(self.course.finished(self.now))

    def _next_record(self) -> FederationHistory:
        """The record that goes with the model of the round in flight."""
        record, plan = self.course.outcome(self.now), self.plan
        if plan is None:
            return record
        fencing_token = max(record.fencing_token, plan.fencing_token)
        return replace(record, generation=plan.generation, fencing_token=fencing_token)

    def _close_round(self, record: FederationHistory) -> None:
        for party in list(self._drafts):
            self._drop(party)
        self.apply(self.course.stored(record, self.now))

    def _drop(self, party: str) -> None:
        if (held := self._drafts.pop(party, None)) is not None:
            held[1].discard()

    async def _sweep(self) -> None:
        """Take those for absent who are free and have not asked for long."""
        while True:
            await asyncio.sleep(SILENCE_SECONDS / 4)
            for name in list(self.course.present):
                contact = self.contacts[name]
                is_free = self.course.instruction(name) is Instruction.WAIT and not contact.polls
                if is_free and self.now - contact.heard_at > SILENCE_SECONDS:
                    self.apply(self.course.left(name, self.now))

    async def wait_for_parties(self) -> None:
        """Wait until the rounds have ended and all who were there know."""
        await self.closed.wait()
        end = self.now + DRAIN_SECONDS
        while self.now < end and any(
            not self.contacts[name].told_end for name in self.course.present
        ):
            await self.changed(0.1)

    def note_reading(self) -> None:
        """Somebody reads the metrics."""
        self._is_read = True
        if self.closed.is_set():
            self._end_read.set()

    async def reported(self) -> None:
        """Wait until how it all ended has been read, where the metrics were read before."""
        if self._is_read:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(READING_SECONDS):
                    await self._end_read.wait()
