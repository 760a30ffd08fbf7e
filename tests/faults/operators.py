"""Faults of the operator's replicas; an ended one is started again, as a kubelet does."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.faults.history import History
from tests.support.process import OperatorProcess
from tests.support.proxy import Proxy
from tests.support.replicas import TIMES
from trainyard.__main__ import EXIT_LOST

CONNECTION_TIMEOUT_SECONDS = 1.0
"""From renew deadline to lease duration of `TIMES`: a longer stall breaks the connections."""
STOP_EXITS = (0, EXIT_LOST, -15)
"""Exit codes after SIGTERM; -15 before the operator handles it."""
FORBIDDEN_MESSAGES = (
    "exception was never retrieved",
    "the scheduler failed",
    "cannot be decided on",
)


class Replica:
    """An operator behind its own proxy, with at most one fault at a time."""

    def __init__(self, name: str, proxy: Proxy, process: OperatorProcess, history: History) -> None:
        self.name, self.proxy, self.process = name, proxy, process
        self._history = history
        self.is_faulty = False
        """Whether a fault of it is in progress."""
        self._should_run = asyncio.Event()

    async def supervise(self) -> None:
        """Start it, and again whenever it has ended, until cancelled."""
        while True:
            await self._should_run.wait()
            self.process.start()
            # It may be killed and started again between two polls.
            while self._should_run.is_set() and self.process.is_started:
                await asyncio.sleep(0.1)
                if (code := self.process.poll()) is not None:
                    self._check_exit(code, (EXIT_LOST,))
                    break

    def start(self) -> None:
        """Let `supervise` start it."""
        self._should_run.set()

    async def kill(self, rng: random.Random) -> None:
        """SIGKILL, then a restart."""
        self._should_run.clear()
        await asyncio.to_thread(self.process.kill)
        await self._restart(rng)

    async def stop(self, rng: random.Random) -> None:
        """SIGTERM as in an upgrade, then a restart."""
        self._should_run.clear()
        self._check_exit(await asyncio.to_thread(self.process.stop), STOP_EXITS)
        await self._restart(rng)

    async def pause(self, rng: random.Random) -> None:
        """SIGSTOP, then SIGCONT."""
        seconds = rng.uniform(0.2, 8)
        with contextlib.suppress(AssertionError, ProcessLookupError):  # it has just ended
            self.process.pause()
            await asyncio.sleep(seconds)
            self.process.resume()

    async def cut(self, rng: random.Random) -> None:
        """Its connections are reset and new ones refused."""
        seconds = rng.uniform(0.1, 6)
        await self.proxy.cut()
        await asyncio.sleep(seconds)
        await self.proxy.restore()

    async def stall(self, rng: random.Random) -> None:
        """Packets are lost: for a moment, or until the connections time out."""
        short = rng.uniform(0.05, CONNECTION_TIMEOUT_SECONDS)
        seconds = rng.choice([short, rng.uniform(1, 8)])
        self.proxy.stall()
        await asyncio.sleep(seconds)
        if seconds >= CONNECTION_TIMEOUT_SECONDS:
            self.proxy.reset()
        self.proxy.resume()

    async def reset(self, _: random.Random) -> None:
        """Its connections are reset; new ones are accepted."""
        self.proxy.reset()

    async def inject(
        self, fault: Callable[[random.Random], Awaitable[None]], rng: random.Random
    ) -> None:
        """Run one fault from its beginning to its end."""
        self.is_faulty = True
        try:
            await fault(rng)
        finally:
            self.is_faulty = False

    def check_log(self) -> None:
        """Record a violation for each forbidden message in the log."""
        text = self.process.log.read_text(errors="replace")
        for message in FORBIDDEN_MESSAGES:
            if message in text:
                self._history.record_violation(
                    f"{self.name} logged: {message} ({self.process.log})"
                )

    async def _restart(self, rng: random.Random) -> None:
        await asyncio.sleep(rng.uniform(0, 2))
        self._should_run.set()

    def _check_exit(self, code: int, expected: tuple[int, ...]) -> None:
        self._history.log(f"{self.name} exited with {code}")
        if code not in expected:
            self._history.record_violation(
                f"{self.name} exited with {code}:\n{self.process.tail()}"
            )


def make_replica(
    kubeconfig: Path, namespace: str, folder: Path, name: str, proxy: Proxy, history: History
) -> Replica:
    """A replica that is not started yet."""
    own_kubeconfig = proxy.write_kubeconfig(folder / f"{name}.kubeconfig")
    # No coordinator answers here, and one replaced at the end would not have settled.
    options = ("--leader-elect", *TIMES, "--replace-timeout=24h")
    log = folder / f"{name}.log"
    process = OperatorProcess(own_kubeconfig, namespace, log, *options, name=name)
    return Replica(name, proxy, process, history)
