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

from trainyard_trainer import contract
from trainyard_trainer.contract import Exit, LastWords, Result
from trainyard_trainer.elastic.engine import Crew, Ended
from trainyard_trainer.elastic.process_group import Rendezvous
from trainyard_trainer.elastic.reporter import Reporter
from trainyard_trainer.runtime.exits import Ending, check_wire, describe, leave_word
from trainyard_trainer.task import load
from trainyard_trainer.training.device import choose_device
from trainyard_trainer.training.loop import train
from trainyard_trainer.training.replica import build
from trainyard_trainer.training.result import final_model
from trainyard_trainer.transport import messages
from trainyard_trainer.transport.link import Link
from trainyard_trainer.transport.tls import Credentials

log = logging.getLogger(__name__)

ALONE_SECONDS: Final = 45.0
"""A worker that was asked to leave looks so long for a coordinator: a new one takes ten seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
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
    def read(cls, environ: Mapping[str, str], tls: str) -> Surroundings:
        """From environment variables; raises Ending that names a missing one."""
        try:
            return cls(
                namespace=environ[contract.ENV_NAMESPACE],
                job=environ[contract.ENV_JOB],
                pod=environ[contract.ENV_POD],
                address=environ[contract.ENV_POD_IP],
                node=environ.get(contract.ENV_NODE, ""),
                coordinator=environ[contract.ENV_COORDINATOR],
                tls=tls,
            )
        except KeyError as error:
            raise Ending(f"the environment variable {error.args[0]} is not set") from None


def run(environ: Mapping[str, str], *, started: float, tls: str, last_words: str) -> NoReturn:
    """Work until let go, then end the process; `started` is on `time.monotonic`'s clock."""
    try:
        check_wire(environ)
        code, words = _work(Surroundings.read(environ, tls), started, last_words)
    except Exception as error:
        code, words = describe(error)
        log.error("%s", words.error, exc_info=error.__cause__ or error)
    leave_word(last_words, words)
    logging.shutdown()
    sys.stdout.flush()
    # Threads may wait for groups whose members are long gone; an orderly exit would wait for them.
    os._exit(code)


def _work(surroundings: Surroundings, started: float, last_words: str) -> tuple[Exit, LastWords]:
    credentials = Credentials(
        namespace=surroundings.namespace, job=surroundings.job, directory=surroundings.tls
    )
    link = Link(surroundings.coordinator, credentials)
    crew = Crew(link, Rendezvous(surroundings.address), surroundings.pod, surroundings.node)
    _leave_on_sigterm(link, last_words)
    link.start(crew.hello)
    try:
        result = _train(crew, started)
    except Ended as end:
        result = end.result
    finally:
        link.close()
    replica = crew.replica_or_none
    if replica is None or replica.turn == 0:
        return Exit.OK, LastWords(result=result)
    return Exit.OK, LastWords(
        result=result, step=replica.step, samples=replica.samples, metrics=replica.metrics
    )


def _leave_on_sigterm(link: Link, last_words: str) -> None:
    def leave(_signal: int, _frame: FrameType | None) -> None:
        link.wake(messages.Leave())
        threading.Thread(target=_leave_alone, args=(link, last_words), daemon=True).start()

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)


def _leave_alone(link: Link, last_words: str) -> None:
    """End the process when there is no coordinator to say goodbye to, well before it is killed."""
    lonely = 0.0
    while lonely < ALONE_SECONDS:
        time.sleep(1.0)
        lonely = 0.0 if link.is_connected else lonely + 1.0
    log.warning("no coordinator for %.0f s: leaving without a goodbye", lonely)
    leave_word(last_words, LastWords(result=Result.LEFT))
    os._exit(Exit.OK)


def _train(crew: Crew, started: float) -> Result:
    config = crew.await_config()
    device = choose_device()
    replica = build(load(config.task, config.args), config, device)
    crew.bring(replica)
    train(replica, crew, Reporter(crew, started))
    return crew.conclude(lambda: final_model(replica))
