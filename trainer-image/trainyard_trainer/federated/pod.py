"""What an aggregator's process does from its first line to its last words."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trainyard_trainer import contract
from trainyard_trainer.contract import Exit, LastWords, Result
from trainyard_trainer.contract.federated import FederatedConfig
from trainyard_trainer.coordinator.pod import Place
from trainyard_trainer.federated.aggregator import Aggregator
from trainyard_trainer.federated.server import Server
from trainyard_trainer.process import Ending, check_wire, describe, leave_word
from trainyard_trainer.transport.tls import Credentials

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """What an aggregator learns from its environment."""

    namespace: str
    job: str
    term: int
    config: FederatedConfig

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Assignment:
        """From environment variables; raises Ending that names a missing or wrong one."""
        try:
            return cls(
                namespace=environ[contract.ENV_NAMESPACE],
                job=environ[contract.ENV_JOB],
                term=int(environ[contract.ENV_TERM]),
                config=FederatedConfig.decode(environ[contract.ENV_CONFIG]),
            )
        except KeyError as error:
            raise Ending(f"the environment variable {error.args[0]} is not set") from None
        except ValueError as error:
            raise Ending(f"the aggregator's environment is wrong: {error}") from None


def run(environ: Mapping[str, str], place: Place) -> Exit:
    """Aggregate until the federation has ended, or until told to end."""
    try:
        check_wire(environ)
        words = asyncio.run(_aggregate(Assignment.read(environ), place))
        code = Exit.OK
    except Exception as error:
        code, words = describe(error)
        log.error("%s", words.error, exc_info=error.__cause__)
    leave_word(place.last_words, words)
    return code


async def _aggregate(assignment: Assignment, place: Place) -> LastWords:
    credentials = Credentials(
        namespace=assignment.namespace, job=assignment.job, directory=place.tls
    )
    aggregator = Aggregator(assignment.config, assignment.term, Path(place.state))
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    host = None if credentials.exist else "127.0.0.1"
    async with Server(aggregator, credentials).serving(host, place.port) as port:
        log.info("term %d on port %d", assignment.term, port)
        await _first(aggregator, told)
    return last_words(aggregator)


async def _first(aggregator: Aggregator, told: asyncio.Event) -> None:
    """Wait for a signal, for what ends the process early, or for a durable federation's end."""
    waits: set[asyncio.Future[object]] = {
        asyncio.ensure_future(told.wait()),
        aggregator.ended,  # type: ignore[arg-type]
    }
    if aggregator.config.durable:
        waits.add(asyncio.ensure_future(_over(aggregator)))
    done, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in pending:
        wait.cancel()
    for wait in done:
        wait.result()


async def _over(aggregator: Aggregator) -> None:
    """Wait until all is over and everybody knows: the parties, and the reader of the metrics."""
    await aggregator.dispersed()
    await aggregator.reported()


def last_words(aggregator: Aggregator) -> LastWords:
    """How the federation stands as its aggregator ends."""
    record, result = aggregator.course.record, aggregator.archive.result
    metrics = result.get("metrics") if result else record.last.metrics if record.history else {}
    return LastWords(
        result=aggregator.course.result or Result.LEFT,
        step=max(0, record.round),
        samples=record.trained,
        metrics=metrics or {},
    )
