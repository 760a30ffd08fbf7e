"""Invariants of the honest jobs and their pods, checked on every event of watches."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import Final, Self

from tests.faults.history import History
from tests.support.manifests import Object
from tests.support.pod_watcher import PodWatcher, watch
from tests.support.testbed import Testbed, phase
from trainyard.api.names import PLURALS

PHASES: Final = ("", "Pending", "Waiting", "Starting", "Running", "Complete")
"""Of an honest job, in their order; no other phase is right, and none comes back."""


@dataclass(slots=True)
class _Observed:
    phase: str = ""
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class JobMonitor:
    """Follows the phases of one namespace's jobs while the context lasts."""

    def __init__(self, testbed: Testbed, history: History) -> None:
        self._testbed, self._history = testbed, history
        self._jobs: dict[str, _Observed] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self.finishing: set[str] = set()
        """The uids of the jobs whose training has ended, and of deleted ones."""

    async def __aenter__(self) -> Self:
        for kind in PLURALS:
            path = self._testbed.jobs_path(kind)
            version = await self._testbed.client.latest_version(path)
            self._tasks.append(asyncio.create_task(self._follow(path, version)))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def wait_for(self, uid: str, expected: str, seconds: float) -> None:
        """Wait until the job is in the phase; raises TimeoutError."""
        observed = self._jobs.setdefault(uid, _Observed())
        async with asyncio.timeout(seconds):
            while observed.phase != expected:
                await observed.changed.wait()
                observed.changed.clear()

    async def _follow(self, path: str, version: str) -> None:
        async for kind, job in watch(self._testbed.client, path, version):
            self.observe(kind, job)

    def observe(self, kind: str, job: Object) -> None:
        """Check the event of a job."""
        uid, name = job["metadata"]["uid"], job["metadata"]["name"]
        if kind == "DELETED":
            self._jobs.pop(uid, None)
            return
        observed, new = self._jobs.setdefault(uid, _Observed()), phase(job)
        if new == observed.phase:
            return
        self._history.log(f"{name} is {new}")
        is_early = new == "Complete" and uid not in self.finishing
        if is_early or _rank(new) < _rank(observed.phase):
            self._history.record_violation(
                f"honest {name} went from {observed.phase} to {new}: {job['status']}"
            )
        observed.phase = new
        observed.changed.set()


def _rank(phase: str) -> int:
    return PHASES.index(phase) if phase in PHASES else -1


class PodGuard(PodWatcher):
    """Records a violation if a pod of a job that still trains ends or is deleted."""

    def __init__(self, testbed: Testbed, history: History, finishing: set[str]) -> None:
        super().__init__(testbed)
        self._history, self._finishing = history, finishing

    async def handle(self, kind: str, pod: Object) -> None:
        """Check the pod."""
        meta = pod["metadata"]
        owner = meta["ownerReferences"][0]["uid"]
        is_gone = kind == "DELETED" or "deletionTimestamp" in meta
        has_ended = pod["status"].get("phase") in ("Succeeded", "Failed")
        if (is_gone or has_ended) and owner not in self._finishing:
            self._history.record_violation(
                f"honest pod {meta['name']} is {'deleted' if is_gone else 'ended'}: {pod['status']}"
            )
