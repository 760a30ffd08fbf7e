"""Pods' processes on one machine, for a run without Kubernetes: started, watched, and ended."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeVar

from trainyard_trainer.contract.exits import Exit, Result, TerminationMessage
from trainyard_trainer.runtime.exits import TrainerError

T = TypeVar("T")


def run_until_signalled(work: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run`, ended by SIGTERM as by Ctrl-C: running work is cancelled and awaited first."""

    async def cancellable() -> T:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - this is one
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await work

    try:
        return asyncio.run(cancellable())
    except asyncio.CancelledError:
        raise SystemExit(128 + signal.SIGTERM) from None


class Processes:
    """The processes of one run, by name; all of them end with the context."""

    def __init__(self, folder: Path) -> None:
        """`folder` holds their certificates and receives their termination messages."""
        self._folder = folder
        self._running: dict[str, asyncio.subprocess.Process] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        for process in self._running.values():
            if process.returncode is None:
                process.terminate()
        for process in self._running.values():
            await process.wait()

    async def start(
        self, name: str, command: str, environ: Mapping[str, str], log: IO[Any]
    ) -> None:
        """Run a command of the trainer as `name`."""
        self._running[name] = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "trainyard_trainer", command),
            *(
                "--termination-log",
                str(self._termination_message_of(name)),
                "--tls",
                str(self._folder / "tls"),
            ),
            # They share this machine's cores: more threads than cores would wait for each other.
            env={"OMP_NUM_THREADS": "1", **os.environ, **environ},
            stderr=log,
        )

    def check(self) -> None:
        """Raise TrainerError with the termination message of a process that has failed."""
        for name, process in self._running.items():
            if process.returncode not in (None, 0):
                raise self._failure(name, process.returncode)

    def _failure(self, name: str, code: int) -> TrainerError:
        path = self._termination_message_of(name)
        message = TerminationMessage.decode(path.read_text()) if path.exists() else None
        if message is not None and message.result is Result.FAILED:
            trace = f"\n{message.traceback}" if message.traceback else ""
            failure = TrainerError(f"{name}: {message.error}{trace}")
        else:
            failure = TrainerError(f"{name} ended with code {code}")
        if code in tuple(Exit):
            failure.code = Exit(code)
        return failure

    def _termination_message_of(self, name: str) -> Path:
        return self._folder / f"{name.replace(' ', '-')}.termination"
