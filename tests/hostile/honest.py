"""Honest users: jobs of both kinds that start, train for a moment and complete."""

from __future__ import annotations

import asyncio
import contextlib
import random
import statistics
from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

from tests.faults.history import History
from tests.hostile.control import Control
from tests.hostile.monitors import JobMonitor
from tests.support import manifests
from tests.support.coordinators import CoordinatorKubelet, PlayedCoordinator, counting
from tests.support.manifests import Object
from tests.support.testbed import Testbed
from trainyard.api.names import DISTRIBUTED_JOB, FEDERATED_JOB
from trainyard.cluster.errors import ApiError
from trainyard_trainer.contract.exits import Result, TerminationMessage

GPUS = (16, 16)
"""Of the nodes of a team; its jobs never need all of them."""
SIZE = 2
"""Workers, or parties."""
USERS = 2
"""Of a team; each has one job at a time."""
TRAINING_SECONDS = (1.0, 4.0)
PAUSE_SECONDS = (0.2, 1.5)
CONTAINER_SECONDS = 0.5
"""What a container runtime takes at least to start a container whose image is there."""
MAX_MULTIPLE = 5.0
"""Of the calm median, without the delays that the operator cannot help."""
MAX_START_SECONDS = 10.0
GIVE_UP_SECONDS = 60.0
"""A start, or an end, that takes longer is a violation of its own."""


class _Moment(NamedTuple):
    time: float
    cpu_wait: float
    """Seconds for which the operator has waited for a CPU so far."""


class _Delays(NamedTuple):
    """Seconds of a start that are not the operator's."""

    bare: float
    cpu_wait: float


class StartTimes:
    """How long honest jobs take from their creation until they run, in the calm and after it.

    What the operator cannot help is taken off: the delay of a bare client that does the same at
    the same time, and the time for which the operator's process waited for a CPU. A start goes
    through the cluster and the operator one after the other, so it may meet both delays.
    """

    def __init__(self, history: History, control: Control, cpu_wait: Callable[[], float]) -> None:
        self.history, self._control, self._cpu_wait = history, control, cpu_wait
        self.calm: list[float] = []
        """Seconds."""
        self.hostile: list[float] = []
        """Seconds."""
        self._multiples: list[float] = []
        """Of the hostile starts: what the operator can help, in calm medians."""
        self.is_calm = True

    def now(self) -> _Moment:
        """The present, for `record`."""
        return _Moment(asyncio.get_running_loop().time(), self._cpu_wait())

    def end_calm(self) -> None:
        """From now on starts are compared with those so far."""
        self.is_calm = False
        self._control.end_calm()
        self.history.log(f"the calm ends: {self}", prints=True)

    def record(self, job: str, began: _Moment) -> None:
        """Record a start that ends now."""
        ended = self.now()
        seconds = ended.time - began.time
        self.history.log(f"{job} started within {seconds:.2f} s")
        if self.is_calm:
            self.calm.append(seconds)
        else:
            self.hostile.append(seconds)
            delays = _Delays(
                bare=self._control.delay(began.time, ended.time),
                cpu_wait=ended.cpu_wait - began.cpu_wait,
            )
            self._check(job, seconds, delays)

    def _check(self, job: str, seconds: float, delays: _Delays) -> None:
        median = statistics.median(self.calm)
        self._multiples.append((seconds - sum(delays)) / median)
        if self._multiples[-1] > MAX_MULTIPLE or seconds > MAX_START_SECONDS:
            self.history.record_violation(
                f"honest {job} took {seconds:.2f} s to start; the calm median is {median:.2f} s, "
                f"bare pods took {delays.bare:.2f} s longer than in the calm, and the operator "
                f"waited {delays.cpu_wait:.2f} s for a CPU"
            )

    def __str__(self) -> str:
        texts = [
            f"{len(times)} {name} starts, median {statistics.median(times):.2f} s, "
            f"longest {max(times):.2f} s"
            for name, times in (("calm", self.calm), ("hostile", self.hostile))
            if times
        ]
        if self._multiples:
            texts.append(
                f"at most {max(self._multiples):.1f} calm medians, without the delays that are not "
                "the operator's"
            )
        return "; ".join(texts)


class _PlayedByName(defaultdict[str, PlayedCoordinator]):
    """An honest coordinator for each job."""

    def __init__(self) -> None:
        super().__init__(counting)

    def __contains__(self, _: object) -> bool:
        return True


class Team:
    """The users of one namespace with nodes of its own."""

    def __init__(
        self, testbed: Testbed, monitor: JobMonitor, starts: StartTimes, rng: random.Random
    ) -> None:
        self.testbed, self._monitor, self._starts, self._rng = testbed, monitor, starts, rng
        self.kubelet = CoordinatorKubelet(testbed, _PlayedByName())
        self.kubelet.start_seconds = CONTAINER_SECONDS
        self._jobs = 0
        self._residents: list[Object] = []
        self._has_stopped = False

    async def work(self) -> None:
        """Keep two jobs running all the time, and submit others now and then, until `stop`."""
        for kind in (DISTRIBUTED_JOB, FEDERATED_JOB):
            self._residents.append(await self._start(kind))
        async with asyncio.TaskGroup() as users:
            for _ in range(USERS):
                users.create_task(self._use(random.Random(self._rng.random())))
        for job in self._residents:
            await self._complete(job)

    def stop(self) -> None:
        """Let `work` end with the jobs that it has begun."""
        self._has_stopped = True

    async def _use(self, rng: random.Random) -> None:
        while not self._has_stopped:
            job = await self._start(rng.choice([DISTRIBUTED_JOB, FEDERATED_JOB]))
            await asyncio.sleep(rng.uniform(*TRAINING_SECONDS))
            await self._complete(job)
            await asyncio.sleep(rng.uniform(*PAUSE_SECONDS))

    async def _start(self, kind: str) -> Object:
        """Create a job and wait until it runs."""
        self._jobs += 1
        began = self._starts.now()
        created = await self.testbed.create_job(self._manifest(kind, f"honest-{self._jobs}"))
        await self._wait_for(created, "Running")
        self._starts.record(self.testbed.job_path(_name(created)), began)
        return created

    async def _complete(self, job: Object) -> None:
        """End the job's pods as a finished training does, then delete it."""
        uid = job["metadata"]["uid"]
        self._monitor.finishing.add(uid)
        ending = asyncio.create_task(self._end_pods(_name(job)))
        await self._wait_for(job, "Complete")
        ending.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await ending
        await self.testbed.delete(_name(job))
        self._starts.history.record("honest job")

    async def _end_pods(self, name: str) -> None:
        """End the trainers first, as they upload the result."""
        message = TerminationMessage(result=Result.COMPLETE)
        while True:
            for role in ("worker", "party", "coordinator"):
                for pod in await self.testbed.pods(name, role):
                    if pod["status"].get("phase") == "Running":
                        with contextlib.suppress(ApiError):  # it is being deleted
                            await self.kubelet.end(pod, 0, message=message)
            await asyncio.sleep(0.5)

    async def _wait_for(self, job: Object, phase: str) -> None:
        try:
            await self._monitor.wait_for(job["metadata"]["uid"], phase, GIVE_UP_SECONDS)
        except TimeoutError:
            status = await self.testbed.describe(_name(job))
            self._starts.history.record_violation(
                f"honest {_name(job)} is not {phase} after {GIVE_UP_SECONDS:g} s: {status}"
            )

    def _manifest(self, kind: str, name: str) -> Object:
        if kind == DISTRIBUTED_JOB:
            return self.testbed.job_manifest(name, SIZE)
        parties: list[Object] = [{"name": f"party-{n}", "gpus": 1} for n in range(SIZE)]
        return manifests.federation(name, self.testbed.namespace, parties)


def _name(job: Object) -> str:
    return str(job["metadata"]["name"])
