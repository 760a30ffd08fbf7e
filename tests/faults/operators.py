"""The replicas of the operator: killed, paused, cut off, and started again as a kubelet would."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.faults.chronicle import Chronicle
from tests.support.process import OperatorProcess
from tests.support.proxy import Proxy
from tests.support.replicas import TIMES
from trainyard.__main__ import EXIT_LOST

MARGIN_SECONDS = 1.0
"""From renew deadline to duration of `TIMES`: what the network holds back for longer is lost."""
CLEAN = (0, EXIT_LOST, -15)
"""Told to stop, also before it listens to that."""
BAD_WORDS = ("exception was never retrieved", "the scheduler failed", "cannot be decided on")


class Replica:
    """One operator behind a proxy of its own, and the one fault that it suffers at a time."""

    def __init__(
        self, name: str, proxy: Proxy, process: OperatorProcess, chronicle: Chronicle
    ) -> None:
        self.name, self.proxy, self.process = name, proxy, process
        self._chronicle = chronicle
        self.is_busy = False
        """Whether a fault of it is under way."""
        self._is_wanted = asyncio.Event()

    async def attend(self) -> None:
        """Start it, and again whenever it has ended; until cancelled."""
        while True:
            await self._is_wanted.wait()
            self.process.start()
            # It may be killed and wanted again between two looks.
            while self._is_wanted.is_set() and self.process.is_started:
                await asyncio.sleep(0.1)
                if (code := self.process.ended()) is not None:
                    self._judge(code, (EXIT_LOST,))
                    break

    def start(self) -> None:
        """Have it run."""
        self._is_wanted.set()

    async def kill(self, dice: random.Random) -> None:
        """It dies, and a kubelet starts it again."""
        self._is_wanted.clear()
        await asyncio.to_thread(self.process.kill)
        await self._come_back(dice)

    async def stop(self, dice: random.Random) -> None:
        """It is told to stop, as in an upgrade."""
        self._is_wanted.clear()
        self._judge(await asyncio.to_thread(self.process.stop), CLEAN)
        await self._come_back(dice)

    async def pause(self, dice: random.Random) -> None:
        """It stands still for a while, in the midst of whatever it does."""
        seconds = dice.uniform(0.2, 8)
        with contextlib.suppress(AssertionError, ProcessLookupError):  # it has just ended
            self.process.pause()
            await asyncio.sleep(seconds)
            self.process.resume()

    async def cut(self, dice: random.Random) -> None:
        """The API server resets its connections and refuses new ones."""
        seconds = dice.uniform(0.1, 6)
        await self.proxy.cut()
        await asyncio.sleep(seconds)
        await self.proxy.restore()

    async def stall(self, dice: random.Random) -> None:
        """Packets are lost: for a moment, or until the connections are given up."""
        seconds = dice.choice([dice.uniform(0.05, MARGIN_SECONDS), dice.uniform(1, 8)])
        self.proxy.stall()
        await asyncio.sleep(seconds)
        if seconds >= MARGIN_SECONDS:
            self.proxy.reset()
        self.proxy.resume()

    async def reset(self, _: random.Random) -> None:
        """Its connections break."""
        self.proxy.reset()

    async def suffer(
        self, fault: Callable[[random.Random], Awaitable[None]], dice: random.Random
    ) -> None:
        """One fault, from its beginning to its end."""
        self.is_busy = True
        try:
            await fault(dice)
        finally:
            self.is_busy = False

    def check_log(self) -> None:
        """Look for what an operator must never say."""
        text = self.process.log.read_text(errors="replace")
        for words in BAD_WORDS:
            if words in text:
                self._chronicle.violated(f"{self.name} said: {words} ({self.process.log})")

    async def _come_back(self, dice: random.Random) -> None:
        await asyncio.sleep(dice.uniform(0, 2))
        self._is_wanted.set()

    def _judge(self, code: int, good: tuple[int, ...]) -> None:
        self._chronicle.saw(f"{self.name} ended with {code}")
        if code not in good:
            self._chronicle.violated(f"{self.name} ended with {code}:\n{self.process.tail()}")


def make_replica(
    kubeconfig: Path, namespace: str, folder: Path, name: str, proxy: Proxy, chronicle: Chronicle
) -> Replica:
    """A replica that is not started yet."""
    own = proxy.write_kubeconfig(folder / f"{name}.kubeconfig")
    options = ("--leader-elect", *TIMES)
    process = OperatorProcess(own, namespace, folder / f"{name}.log", *options, name=name)
    return Replica(name, proxy, process, chronicle)
