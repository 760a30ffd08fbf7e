"""The process of a coordinator, of either kind of job, from its environment to its exit code."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from trainyard_trainer.contract.config import JobConfig
from trainyard_trainer.contract.env import ENV_CONFIG, ENV_JOB, ENV_NAMESPACE, ENV_TERM
from trainyard_trainer.contract.exits import Exit, TerminationMessage
from trainyard_trainer.coordinator.server import Coordinator
from trainyard_trainer.runtime.exits import (
    TrainerError,
    check_wire,
    describe,
    write_termination_message,
)
from trainyard_trainer.transport.server import JobServer
from trainyard_trainer.transport.tls import Credentials

log = logging.getLogger(__name__)

C = TypeVar("C")
MakeServer = Callable[["CoordinatorEnv[C]", Path, Credentials], JobServer[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorEnv(Generic[C]):
    """The environment of a coordinator's pod."""

    namespace: str
    job: str
    term: int
    config: C

    @classmethod
    def read(cls, environ: Mapping[str, str], decode: Callable[[str], C]) -> CoordinatorEnv[C]:
        """Read environment variables; raises TrainerError that names a missing or invalid one."""
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
            raise TrainerError(f"the coordinator's environment is invalid: {error}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """The command line options of a coordinator."""

    port: int
    state: str
    """The state directory."""
    tls: str
    """The directory of the certificates."""
    termination_log: str
    """The file for the termination message."""


def run(environ: Mapping[str, str], options: ServeOptions) -> Exit:
    """Coordinate a DistributedJob until it has ended, or until SIGTERM."""
    return run_process(
        environ,
        options,
        JobConfig.decode,
        lambda env, state, credentials: Coordinator(env.config, env.term, state, credentials),
    )


def run_process(
    environ: Mapping[str, str],
    options: ServeOptions,
    decode: Callable[[str], C],
    make_server: MakeServer[C],
) -> Exit:
    """Serve until the job has ended, or until SIGTERM; always writes a termination message."""
    try:
        check_wire(environ)
        env = CoordinatorEnv.read(environ, decode)
        message = asyncio.run(_serve(env, options, make_server))
        code = Exit.OK
    except Exception as error:
        code, message = describe(error)
        log.error("%s", message.error, exc_info=error.__cause__)
    write_termination_message(options.termination_log, message)
    return code


async def _serve(
    env: CoordinatorEnv[C], options: ServeOptions, make_server: MakeServer[C]
) -> TerminationMessage:
    credentials = Credentials(namespace=env.namespace, job=env.job, directory=options.tls)
    server = make_server(env, Path(options.state), credentials)
    sigterm = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, sigterm.set)
    host = None if credentials.exist else "127.0.0.1"
    async with server.serving(host, options.port) as port:
        log.info("term %d on port %d", env.term, port)
        await _wait_for_end(server, sigterm)
        if sigterm.is_set():
            await server.drain()
    return server.termination_message()


async def _wait_for_end(server: JobServer[Any], sigterm: asyncio.Event) -> None:
    """Wait for the end of the job or for SIGTERM; raises what ends the process early."""
    waits: set[asyncio.Future[Any]] = {
        asyncio.ensure_future(sigterm.wait()),
        asyncio.ensure_future(server.wait_until_done()),
        server.ended,
    }
    done, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in pending:
        wait.cancel()
    for wait in done:
        wait.result()
