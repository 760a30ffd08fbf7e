"""The process of a party, from its environment to its exit code; it runs for all rounds."""

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
    DEVICE_REQUIRED,
    ENV_COORDINATOR,
    ENV_DEVICE,
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
    bounded_or_none,
)
from trainyard_trainer.federated.rounds.events import Instruction
from trainyard_trainer.runtime import user_code
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
"""Initial and longest backoff between attempts to reach the aggregator."""


class LeaveRequested(BaseException):
    """SIGTERM was received; raised at whatever point the process has reached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartyEnv:
    """The environment of a party's pod; everything else comes from the aggregator."""

    namespace: str
    job: str
    party: str
    aggregator: str
    """`host:port`."""
    tls: str
    """The directory of the certificates."""
    data: Path | None = None
    """The directory of its own data."""
    needs_device: bool = False
    """Whether it must not train on the CPU."""

    @classmethod
    def read(cls, environ: Mapping[str, str], tls: str, data: Path) -> PartyEnv:
        """Read environment variables; raises TrainerError that names a missing one."""
        try:
            return cls(
                namespace=environ[ENV_NAMESPACE],
                job=environ[ENV_JOB],
                party=environ[ENV_PARTY],
                aggregator=environ[ENV_COORDINATOR],
                tls=tls,
                data=data if data.is_dir() else None,
                needs_device=environ.get(ENV_DEVICE) == DEVICE_REQUIRED,
            )
        except KeyError as error:
            raise TrainerError(f"the environment variable {error.args[0]} is not set") from None


def run(
    environ: Mapping[str, str], *, tls: str, termination_log: str, data: str = DATA_DIR
) -> Exit:
    """Take part until the federation has ended, or until SIGTERM."""
    try:
        check_wire(environ)
        user_code.make_importable(environ)
        message = _participate(PartyEnv.read(environ, tls, Path(data)))
        code = Exit.OK
    except Exception as error:
        code, message = describe(error)
        log.error("%s", message.error, exc_info=error.__cause__ or error)
    write_termination_message(termination_log, message)
    return code


def _participate(env: PartyEnv) -> TerminationMessage:
    credentials = Credentials(namespace=env.namespace, job=env.job, directory=env.tls)
    client = AggregatorClient(env.aggregator, env.party, credentials)
    party = Party(name=env.party, data=env.data)
    runner = PartyRunner(client, party, needs_device=env.needs_device)

    def leave(_signal: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise LeaveRequested

    signal.signal(signal.SIGTERM, leave)
    try:
        result = runner.run()
    except LeaveRequested:
        result = Result.LEFT
        try:
            client.leave()
        except AggregatorUnavailable as error:
            log.warning("could not notify the aggregator of leaving: %s", error)
    finally:
        client.close()
    return TerminationMessage(result=result, step=runner.round, metrics=runner.metrics)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedUpdate:
    """The update in the trainer's buffer, and what it was trained from."""

    model: str
    """SHA-256 of the global model."""
    config: TrainConfig
    metadata: UpdateMetadata

    def answers(self, announcement: RoundAnnouncement) -> bool:
        """Whether training again would give the same update."""
        trained = (self.model, self.metadata.round, self.config)
        return trained == (announcement.model, announcement.round, announcement.config)


class PartyRunner:
    """A party's side of the rounds."""

    def __init__(
        self, client: AggregatorClient, party: Party, *, needs_device: bool = False
    ) -> None:
        """The Task is loaded with the first announcement."""
        self._client, self._party, self._needs_device = client, party, needs_device
        self._trainer: LocalTrainer | None = None
        self._loaded_model = ""
        """The global model in the trainer's buffer; empty for none."""
        self._update: TrainedUpdate | None = None
        """The update in the trainer's buffer, which is sent again rather than trained again."""
        self.round: int | None = None
        """The last one that it contributed to."""
        self.metrics: dict[str, float] = {}

    def run(self) -> Result:
        """Follow the aggregator's instructions until the federation has ended; its result."""
        backoff = RETRY_SECONDS[0]
        while True:
            try:
                announcement = self._client.poll(ready=self._trainer is not None)
                if announcement is not None:
                    if announcement.instruction is Instruction.END:
                        return announcement.result or Result.COMPLETE
                    self._follow(announcement)
                backoff = RETRY_SECONDS[0]
            except AggregatorUnavailable as error:
                log.info("the aggregator is unavailable: %s", error)
                # Jitter, so that the parties do not return all at once.
                time.sleep(backoff * random.uniform(0.5, 1.0))  # noqa: S311
                backoff = min(2 * backoff, RETRY_SECONDS[1])

    def _follow(self, announcement: RoundAnnouncement) -> None:
        if self._trainer is None:
            device = choose_device(is_required=self._needs_device)
            self._trainer = LocalTrainer(announcement.config, self._party, device)
        trainer = self._trainer
        trainer.update_config(announcement.config)
        match announcement.instruction:
            case Instruction.INITIAL:
                self._initialize(trainer, announcement)
            case Instruction.TRAIN:
                self._train(trainer, announcement)
            case Instruction.EVALUATE:
                self._download(trainer, announcement)
                self._evaluate(trainer, announcement)

    def _initialize(self, trainer: LocalTrainer, announcement: RoundAnnouncement) -> None:
        self._loaded_model, self._update = "", None
        if announcement.model:
            trainer.start_from(self._client.download_file(trainer.max_init_bytes))
        trainer.state.pack()
        metadata = UpdateMetadata(
            term=announcement.term, round=announcement.round, samples=1, weight=1.0
        )
        self._upload(trainer, metadata)

    def _train(self, trainer: LocalTrainer, announcement: RoundAnnouncement) -> None:
        if self._update is None or not self._update.answers(announcement):
            self._update = None
            self._download(trainer, announcement)
            if announcement.evaluate:
                self._evaluate(trainer, announcement)
            self._update = self._train_update(trainer, announcement)
        metadata = self._update.metadata
        if metadata.term != announcement.term:
            metadata = msgspec.structs.replace(metadata, term=announcement.term)
            if announcement.evaluate:
                self._report_evaluation(trainer, announcement)
        self._upload(trainer, metadata)

    def _train_update(
        self, trainer: LocalTrainer, announcement: RoundAnnouncement
    ) -> TrainedUpdate:
        outcome = trainer.train(announcement.round)
        self._loaded_model = ""
        metadata = UpdateMetadata(
            term=announcement.term,
            round=announcement.round,
            samples=outcome.samples,
            weight=float(outcome.samples),
            loss=bounded_or_none(outcome.loss),
        )
        return TrainedUpdate(
            model=announcement.model, config=announcement.config, metadata=metadata
        )

    def _download(self, trainer: LocalTrainer, announcement: RoundAnnouncement) -> None:
        if self._loaded_model != announcement.model:
            self._loaded_model, self._update = "", None
            self._client.download(trainer.state.layout, trainer.state.data)
            self._loaded_model = announcement.model

    def _evaluate(self, trainer: LocalTrainer, announcement: RoundAnnouncement) -> None:
        self.metrics = trainer.evaluate()
        self._report_evaluation(trainer, announcement)

    def _report_evaluation(self, trainer: LocalTrainer, announcement: RoundAnnouncement) -> None:
        report = EvaluationReport(
            term=announcement.term,
            round=announcement.round - 1,  # The model that the announced round starts from.
            samples=trainer.eval_samples,
            metrics={name: bounded_or_none(value) for name, value in self.metrics.items()},
        )
        result = self._client.send_evaluation(report)
        if result.refusal is not None:
            log.warning("the evaluation was refused (%s): %s", result.refusal, result.message)

    def _upload(self, trainer: LocalTrainer, metadata: UpdateMetadata) -> None:
        result = self._client.upload(trainer.state.layout, trainer.state.data, metadata)
        if result.refusal is None:
            self.round = metadata.round
        else:
            log.warning("the update was refused (%s): %s", result.refusal, result.message)
