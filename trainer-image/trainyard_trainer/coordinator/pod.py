"""What a coordinator's process does from its first line to its last words."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from trainyard_trainer.contract.config import JobConfig
from trainyard_trainer.contract.env import ENV_CONFIG, ENV_JOB, ENV_NAMESPACE, ENV_TERM
from trainyard_trainer.contract.exits import Exit, Result, TerminationMessage
from trainyard_trainer.coordinator.server import Coordinator
from trainyard_trainer.runtime.exits import (
    TrainerError,
    check_wire,
    describe,
    write_termination_message,
)
from trainyard_trainer.transport.tls import Credentials

log = logging.getLogger(__name__)

C = TypeVar("C")


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorEnv(Generic[C]):
    """What a coordinator, of either kind of job, learns from its environment."""

    namespace: str
    job: str
    term: int
    config: C

    @classmethod
    def read(cls, environ: Mapping[str, str], decode: Callable[[str], C]) -> CoordinatorEnv[C]:
        """From environment variables; raises Ending that names a missing or wrong one."""
        try:
            return cls(
                namespace=environ[ENV_NAMESPACE],
                job=environ[ENV_JOB],
                term=int(environ[ENV_TERM]),
                config=decode(environ[ENV_CONFIG]),
            )
        except KeyError as error:
            raise TrainerError(f"the environment variable {error.args[0]} is not set") from None
        except ValueError as error:
            raise TrainerError(f"the coordinator's environment is wrong: {error}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """Where a coordinator serves and writes."""

    port: int
    state: str
    tls: str
    last_words: str


def run(environ: Mapping[str, str], place: ServeOptions) -> Exit:
    """Coordinate until the job has ended, or until told to end."""
    return run_process(
        environ, place, lambda: _coordinate(CoordinatorEnv.read(environ, JobConfig.decode), place)
    )


def run_process(
    environ: Mapping[str, str],
    place: ServeOptions,
    work: Callable[[], Coroutine[Any, Any, TerminationMessage]],
) -> Exit:
    """Do the `work` of a coordinator's process, and leave its last words however it ends."""
    try:
        check_wire(environ)
        words = asyncio.run(work())
        code = Exit.OK
    except Exception as error:
        code, words = describe(error)
        log.error("%s", words.error, exc_info=error.__cause__)
    write_termination_message(place.last_words, words)
    return code


async def _coordinate(
    assignment: CoordinatorEnv[JobConfig], place: ServeOptions
) -> TerminationMessage:
    credentials = Credentials(
        namespace=assignment.namespace, job=assignment.job, directory=place.tls
    )
    coordinator = Coordinator(assignment.config, assignment.term, Path(place.state), credentials)
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    host = None if credentials.exist else "127.0.0.1"
    async with coordinator.serving(host, place.port) as port:
        log.info("term %d on port %d", assignment.term, port)
        over = coordinator.wait_for_workers() if coordinator.config.durable else None
        await wait_first(told, coordinator.members.ended, over)
        if told.is_set():
            await coordinator.members.drain()
    return termination_message(coordinator)


async def wait_first(
    told: asyncio.Event, ended: asyncio.Future[None], over: Coroutine[Any, Any, None] | None
) -> None:
    """Wait until `told`, until `ended` raises what ends the process early, or for the end."""
    waits: set[asyncio.Future[Any]] = {asyncio.ensure_future(told.wait()), ended}
    if over is not None:
        waits.add(asyncio.ensure_future(over))
    done, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in pending:
        wait.cancel()
    for wait in done:
        wait.result()


def termination_message(coordinator: Coordinator) -> TerminationMessage:
    """How training stands as the coordinator ends."""
    report = coordinator.progress.report
    return TerminationMessage(
        result=coordinator.members.registry.result or Result.LEFT,
        step=report.step,
        samples=report.samples,
        metrics={name: value for name, value in report.metrics.items() if value is not None},
    )
