"""What a worker's process does from its first line to its last words."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Final, NoReturn

from trainyard_trainer.contract.env import (
    ENV_COORDINATOR,
    ENV_JOB,
    ENV_NAMESPACE,
    ENV_NODE,
    ENV_POD,
    ENV_POD_IP,
)
from trainyard_trainer.contract.exits import Exit, Result, TerminationMessage
from trainyard_trainer.elastic.engine import Dismissed, ElasticReplicaGroup
from trainyard_trainer.elastic.process_group import Rendezvous
from trainyard_trainer.elastic.reporter import Reporter
from trainyard_trainer.runtime.exits import (
    TrainerError,
    check_wire,
    describe,
    write_termination_message,
)
from trainyard_trainer.task import load
from trainyard_trainer.training.device import choose_device
from trainyard_trainer.training.loop import train
from trainyard_trainer.training.replica import build
from trainyard_trainer.training.result import final_model
from trainyard_trainer.transport import messages
from trainyard_trainer.transport.link import CoordinatorConnection
from trainyard_trainer.transport.tls import Credentials

log = logging.getLogger(__name__)

ALONE_SECONDS: Final = 45.0
"""A worker that was asked to leave looks so long for a coordinator: a new one takes ten seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerEnv:
    """What a worker learns from its environment; all else it learns from its coordinator."""

    namespace: str
    job: str
    pod: str
    address: str
    """The IP address by which other workers reach this one."""
    node: str
    coordinator: str
    tls: str
    """The folder of the certificates."""

    @classmethod
    def read(cls, environ: Mapping[str, str], tls: str) -> WorkerEnv:
        """From environment variables; raises Ending that names a missing one."""
        try:
            return cls(
                namespace=environ[ENV_NAMESPACE],
                job=environ[ENV_JOB],
                pod=environ[ENV_POD],
                address=environ[ENV_POD_IP],
                node=environ.get(ENV_NODE, ""),
                coordinator=environ[ENV_COORDINATOR],
                tls=tls,
            )
        except KeyError as error:
            raise TrainerError(f"the environment variable {error.args[0]} is not set") from None


def run(environ: Mapping[str, str], *, started: float, tls: str, last_words: str) -> NoReturn:
    """Work until let go, then end the process; `started` is on `time.monotonic`'s clock."""
    try:
        check_wire(environ)
        code, words = _run(WorkerEnv.read(environ, tls), started, last_words)
    except Exception as error:
        code, words = describe(error)
        log.error("%s", words.error, exc_info=error.__cause__ or error)
    write_termination_message(last_words, words)
    logging.shutdown()
    sys.stdout.flush()
    # Threads may wait for groups whose members are long gone; an orderly exit would wait for them.
    os._exit(code)


def _run(
    surroundings: WorkerEnv, started: float, last_words: str
) -> tuple[Exit, TerminationMessage]:
    credentials = Credentials(
        namespace=surroundings.namespace, job=surroundings.job, directory=surroundings.tls
    )
    link = CoordinatorConnection(surroundings.coordinator, credentials)
    crew = ElasticReplicaGroup(
        link, Rendezvous(surroundings.address), surroundings.pod, surroundings.node
    )
    _leave_on_sigterm(link, last_words)
    link.start(crew.hello)
    try:
        result = _train(crew, started)
    except Dismissed as end:
        result = end.result
    finally:
        link.close()
    replica = crew.replica_or_none
    if replica is None or replica.iteration == 0:
        return Exit.OK, TerminationMessage(result=result)
    return Exit.OK, TerminationMessage(
        result=result, step=replica.step, samples=replica.samples, metrics=replica.metrics
    )


def _leave_on_sigterm(link: CoordinatorConnection, last_words: str) -> None:
    def leave(_signal: int, _frame: FrameType | None) -> None:
        link.wake(messages.Leave())
        threading.Thread(target=_leave_alone, args=(link, last_words), daemon=True).start()

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)


def _leave_alone(link: CoordinatorConnection, last_words: str) -> None:
    """End the process when there is no coordinator to say goodbye to, well before it is killed."""
    lonely = 0.0
    while lonely < ALONE_SECONDS:
        time.sleep(1.0)
        lonely = 0.0 if link.is_connected else lonely + 1.0
    log.warning("no coordinator for %.0f s: leaving without a goodbye", lonely)
    write_termination_message(last_words, TerminationMessage(result=Result.LEFT))
    os._exit(Exit.OK)


def _train(crew: ElasticReplicaGroup, started: float) -> Result:
    config = crew.await_config()
    device = choose_device()
    replica = build(load(config.task, config.args), config, device)
    crew.register(replica)
    train(replica, crew, Reporter(crew, started))
    return crew.finish(lambda: final_model(replica))
