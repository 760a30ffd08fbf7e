"""A control: the requests of a job's start, sent by a bare client all the time.

Attacks, and whatever else the machine does, slow the API server, kube-scheduler and this process
as well, which is nothing that the operator could help.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
from typing import NamedTuple

from tests.support import manifests
from tests.support.kubelet import Kubelet
from tests.support.manifests import Object
from tests.support.testbed import Testbed

PODS = 3
"""As many as an honest job has."""
PATCHES = 2
"""As often as a job's status is written until it runs."""
PAUSE_SECONDS = 0.3


class _Start(NamedTuple):
    began: float
    ended: float | None = None
    """None until it ends."""

    def ended_by(self, now: float) -> float:
        return now if self.ended is None else self.ended


class _ControlKubelet(Kubelet):
    """A kubelet that sets an event once a pod runs."""

    def __init__(self, testbed: Testbed) -> None:
        super().__init__(testbed)
        self.running: dict[str, asyncio.Event] = {}
        """By the name of the pod, of those that are waited for."""

    async def handle(self, kind: str, pod: Object) -> None:
        """Start or remove the pod."""
        await super().handle(kind, pod)
        event = self.running.get(pod["metadata"]["name"])
        if event is not None and pod["status"].get("phase") == "Running":
            event.set()


class Control:
    """Starts gangs of bare pods, one after the other, and measures each."""

    def __init__(self, testbed: Testbed) -> None:
        self._testbed = testbed
        self._starts: list[_Start] = []
        self._calm_median = 0.0
        self._numbers = itertools.count()

    async def run(self) -> None:
        """Measure until cancelled."""
        async with _ControlKubelet(self._testbed) as kubelet:
            await self._testbed.add_nodes(0, is_attended=False)
            while True:
                await self._measure(kubelet)
                await asyncio.sleep(PAUSE_SECONDS)

    def end_calm(self) -> None:
        """From now on starts are compared with those so far."""
        self._calm_median = statistics.median(
            start.ended - start.began for start in self._starts if start.ended is not None
        )

    def delay(self, began: float, ended: float) -> float:
        """By how many seconds the slowest start within these times was slower than in the calm.

        A start that has not ended yet counts with its time so far.
        """
        within = [s for s in self._starts if s.ended_by(ended) >= began and s.began <= ended]
        slowest = max((s.ended_by(ended) - s.began for s in within), default=0.0)
        return max(0.0, slowest - self._calm_median)

    async def _measure(self, kubelet: _ControlKubelet) -> None:
        loop, number = asyncio.get_running_loop(), next(self._numbers)
        names = [f"control-{number}-{n}" for n in range(PODS)]
        kubelet.running = {name: asyncio.Event() for name in names}
        began, path = loop.time(), self._testbed.path
        self._starts.append(_Start(began))
        await self._testbed.create("secrets", {"metadata": {"name": names[0]}})
        await asyncio.gather(*(self._create(name) for name in names))
        for event in kubelet.running.values():
            await event.wait()
        for patch in range(PATCHES):
            annotations = {"metadata": {"annotations": {"n": str(patch)}}}
            await self._testbed.patch(path("secrets", names[0]), annotations)
        self._starts[-1] = _Start(began, loop.time())
        for name in names:
            await self._testbed.client.delete(path("pods", name), grace_seconds=0)
        await self._testbed.client.delete(path("secrets", names[0]))

    async def _create(self, name: str) -> None:
        await self._testbed.create("pods", manifests.foreign_pod(name, self._testbed.namespace, 0))
