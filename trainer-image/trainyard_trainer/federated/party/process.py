"""What a party's process does from its first line to its last words; it stays for all rounds."""

from __future__ import annotations

import logging
import random
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

import msgspec

from trainyard_trainer.contract.env import (
    DATA_DIR,
    ENV_COORDINATOR,
    ENV_JOB,
    ENV_NAMESPACE,
    ENV_PARTY,
)
from trainyard_trainer.contract.exits import Exit, Result, TerminationMessage
from trainyard_trainer.federated.party.client import AggregatorClient, AggregatorUnavailable
from trainyard_trainer.federated.party.trainer import LocalTrainer
from trainyard_trainer.federated.protocol.messages import (
    EvaluationReport,
    RoundAnnouncement,
    TrainConfig,
    UpdateMetadata,
    finite,
)
from trainyard_trainer.federated.rounds.events import Instruction
from trainyard_trainer.runtime.exits import (
    TrainerError,
    check_wire,
    describe,
    write_termination_message,
)
from trainyard_trainer.task import Party
from trainyard_trainer.training.device import choose_device
from trainyard_trainer.transport.tls import Credentials

log = logging.getLogger(__name__)

RETRY_SECONDS: Final = (0.05, 2.0)
"""First and longest pause between attempts to reach the aggregator."""


class LeaveRequested(BaseException):
    """The process was asked to end; raised wherever it is just then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartyEnv:
    """What a party learns from its environment; all else it learns from its aggregator."""

    namespace: str
    job: str
    party: str
    aggregator: str
    tls: str
    """The folder of the certificates."""
    data: Path | None = None
    """The folder of its own data."""

    @classmethod
    def read(cls, environ: Mapping[str, str], tls: str, data: Path) -> PartyEnv:
        """From environment variables; raises Ending that names a missing one."""
        try:
            return cls(
                namespace=environ[ENV_NAMESPACE],
                job=environ[ENV_JOB],
                party=environ[ENV_PARTY],
                aggregator=environ[ENV_COORDINATOR],
                tls=tls,
                data=data if data.is_dir() else None,
            )
        except KeyError as error:
            raise TrainerError(f"the environment variable {error.args[0]} is not set") from None


def run(environ: Mapping[str, str], *, tls: str, last_words: str, data: str = DATA_DIR) -> Exit:
    """Take part until let go, or told to end."""
    try:
        check_wire(environ)
        words = _take_part(PartyEnv.read(environ, tls, Path(data)))
        code = Exit.OK
    except Exception as error:
        code, words = describe(error)
        log.error("%s", words.error, exc_info=error.__cause__ or error)
    write_termination_message(last_words, words)
    return code


def _take_part(surroundings: PartyEnv) -> TerminationMessage:
    credentials = Credentials(
        namespace=surroundings.namespace, job=surroundings.job, directory=surroundings.tls
    )
    courier = AggregatorClient(surroundings.aggregator, surroundings.party, credentials)
    member = PartyRunner(courier, Party(name=surroundings.party, data=surroundings.data))

    def leave(_signal: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise LeaveRequested

    signal.signal(signal.SIGTERM, leave)
    try:
        result = member.serve()
    except LeaveRequested:
        result = Result.LEFT
        try:
            courier.leave()
        except AggregatorUnavailable as error:
            log.warning("no goodbye to the aggregator: %s", error)
    finally:
        courier.close()
    return TerminationMessage(result=result, step=member.round, metrics=member.metrics)


class PartyRunner:
    """A party's part in the federation."""

    def __init__(self, courier: AggregatorClient, party: Party) -> None:
        """Nothing is asked yet, and nothing loaded."""
        self._courier, self._party = courier, party
        self._learner: LocalTrainer | None = None
        self._held = ""
        """The global model whose bytes the learner's state holds; empty for none."""
        self._done: tuple[tuple[str, int, TrainConfig], UpdateMetadata] | None = None
        """What the update in the learner's state answers, so that it is not trained twice."""
        self.round: int | None = None
        """The last one that it delivered to."""
        self.metrics: dict[str, float] = {}

    def serve(self) -> Result:
        """Do what is asked until it is over; how it ended."""
        pause = RETRY_SECONDS[0]
        while True:
            try:
                announcement = self._courier.poll(ready=self._learner is not None)
                if announcement is not None:
                    if announcement.instruction is Instruction.END:
                        return announcement.result or Result.COMPLETE
                    self._answer(announcement)
                pause = RETRY_SECONDS[0]
            except AggregatorUnavailable as error:
                log.info("the aggregator is away: %s", error)
                # Jitter, so that the parties do not come back all at once.
                time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311
                pause = min(2 * pause, RETRY_SECONDS[1])

    def _answer(self, announcement: RoundAnnouncement) -> None:
        if self._learner is None:
            self._learner = LocalTrainer(announcement.config, self._party, choose_device())
        self._learner.adopt(announcement.config)
        match announcement.instruction:
            case Instruction.INITIAL:
                self._initialize(self._learner, announcement)
            case Instruction.TRAIN:
                self._train(self._learner, announcement)
            case Instruction.EVALUATE:
                self._fetch(self._learner, announcement)
                self._evaluate(self._learner, announcement)

    def _initialize(self, learner: LocalTrainer, announcement: RoundAnnouncement) -> None:
        self._held, self._done = "", None
        if announcement.model:
            learner.start_from(self._courier.download_file())
        learner.state.pack()
        note = UpdateMetadata(
            term=announcement.term, round=announcement.round, samples=1, weight=1.0
        )
        self._send(learner, note)

    def _train(self, learner: LocalTrainer, announcement: RoundAnnouncement) -> None:
        key = (announcement.model, announcement.round, announcement.config)
        if self._done is None or self._done[0] != key:
            self._done = None
            self._fetch(learner, announcement)
            if announcement.evaluate:
                self._evaluate(learner, announcement)
            trained = learner.train(announcement.round)
            self._held = ""
            note = UpdateMetadata(
                term=announcement.term,
                round=announcement.round,
                samples=trained.samples,
                weight=float(trained.samples),
                loss=trained.loss,
            )
            self._done = key, note
        note = self._done[1]
        if note.term != announcement.term:
            note = msgspec.structs.replace(note, term=announcement.term)
            if announcement.evaluate:
                self._report(learner, announcement)
        self._send(learner, note)

    def _fetch(self, learner: LocalTrainer, announcement: RoundAnnouncement) -> None:
        if self._held != announcement.model:
            self._held, self._done = "", None
            self._courier.download(learner.state.layout, learner.state.data)
            self._held = announcement.model

    def _evaluate(self, learner: LocalTrainer, announcement: RoundAnnouncement) -> None:
        self.metrics = learner.evaluate()
        self._report(learner, announcement)

    def _report(self, learner: LocalTrainer, announcement: RoundAnnouncement) -> None:
        # A round's announcement evaluates the model that it starts from.
        number = announcement.round - 1
        metrics = {name: finite(value) for name, value in self.metrics.items()}
        self._courier.report(
            EvaluationReport(
                term=announcement.term, round=number, samples=learner.held_out, metrics=metrics
            )
        )

    def _send(self, learner: LocalTrainer, note: UpdateMetadata) -> None:
        verdict = self._courier.upload(learner.state.layout, learner.state.data, note)
        if verdict.refusal is None:
            self.round = note.round
        else:
            log.warning("the update is refused (%s): %s", verdict.refusal, verdict.message)
