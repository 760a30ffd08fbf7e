"""A run: honest teams alone, then beside hostile actors, and all checks throughout."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.faults.history import History, Violation
from tests.hostile.actor import Actor, Surroundings
from tests.hostile.actors import ACTORS
from tests.hostile.attacks import Attacks
from tests.hostile.control import Control
from tests.hostile.honest import GPUS, StartTimes, Team
from tests.hostile.monitors import JobMonitor, PodGuard
from tests.hostile.observer import Observer
from tests.support.process import OperatorProcess
from tests.support.replicas import lease
from tests.support.testbed import Testbed
from tests.support.waiting import eventually
from trainyard.cluster.client import KubeClient

TEAMS = 2
REPLICAS = 2
LEADER = "replica-0"
"""The first to start, and the holder of the Lease to the end."""
OPTIONS = ("--leader-elect", "--reach=direct", "--scrape-interval=2s")
CALM_STARTS = 16
CALM_TIMEOUT_SECONDS = 180
ACTOR_TIMEOUT_SECONDS = 60.0
"""Of an actor's own waits, whose jobs may be slow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """The teams, the attacks and the observers of one run."""

    history: History
    teams: list[Team]
    starts: StartTimes
    control: Control
    attacks: Attacks
    observer: Observer

    async def run(self, seconds: float) -> None:
        """Measure the calm starts, then attack for that long; raises Violation."""
        async with asyncio.TaskGroup() as group:
            observing = [
                group.create_task(self.observer.observe()),
                group.create_task(self.control.run()),
            ]
            working = [group.create_task(team.work()) for team in self.teams]
            await eventually(self._has_calm_median, CALM_TIMEOUT_SECONDS)
            self.starts.end_calm()
            await self.attacks.run(seconds)
            self.history.log("the attacks end", prints=True)
            for team in self.teams:
                team.stop()
            await asyncio.gather(*working)
            for task in observing:
                task.cancel()
        self.observer.check_logs()
        if self.history.violations:
            raise Violation(self.history.report("an invariant is violated"))

    def summary(self) -> str:
        """What was measured."""
        return f"{self.starts}\n{self.observer}"

    async def _has_calm_median(self) -> None:
        assert len(self.starts.calm) >= CALM_STARTS, f"only {len(self.starts.calm)} jobs started"


@asynccontextmanager
async def open_experiment(
    kubeconfig: Path, folder: Path, seed: int, *, is_verbose: bool = False
) -> AsyncIterator[Experiment]:
    """An experiment whose nodes are ready and whose replicas are started."""
    history = History(seed, folder / "events.log", is_verbose=is_verbose)
    rng, run = random.Random(seed), uuid.uuid4().hex[:8]
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(await KubeClient.connect(kubeconfig))
        namespace = f"hostile-{run}-operator"
        await client.create("/api/v1/namespaces", {"metadata": {"name": namespace}})
        stack.push_async_callback(client.delete, f"/api/v1/namespaces/{namespace}")
        replicas = {}
        for number in range(REPLICAS):
            name = f"replica-{number}"
            replicas[name] = await _start_replica(stack, kubeconfig, namespace, folder, name)
            await eventually(partial(_check_leader, client, namespace))
        control = Control(await _open_testbed(stack, client, f"hostile-{run}-control"))
        starts = StartTimes(history, control, replicas[LEADER].cpu_wait_seconds)
        teams = [
            await _open_team(stack, client, f"honest-{run}-{number}", starts, rng)
            for number in range(TEAMS)
        ]
        honest = [team.testbed for team in teams]
        surroundings = Surroundings(honest=honest, history=history, folder=folder)
        actors = [await _open_actor(stack, client, run, kind, surroundings) for kind in ACTORS]
        yield Experiment(
            history=history,
            teams=teams,
            starts=starts,
            control=control,
            attacks=Attacks(rng, history, actors),
            observer=Observer(client, namespace, replicas, history),
        )


async def _start_replica(
    stack: AsyncExitStack, kubeconfig: Path, namespace: str, folder: Path, name: str
) -> OperatorProcess:
    log = folder / f"{name}.log"
    process = OperatorProcess(kubeconfig, namespace, log, *OPTIONS, name=name)
    stack.push_async_callback(asyncio.to_thread, process.kill)
    await process.start_until_ready()
    return process


async def _check_leader(client: KubeClient, namespace: str) -> None:
    holder = (await lease(client, namespace)).get("holderIdentity", "")
    assert holder.startswith(f"{LEADER}_"), f"{holder!r} leads, not {LEADER}"


async def _open_team(
    stack: AsyncExitStack, client: KubeClient, name: str, starts: StartTimes, rng: random.Random
) -> Team:
    testbed = await _open_testbed(stack, client, name)
    await testbed.add_nodes(*GPUS, is_attended=False)
    monitor = await stack.enter_async_context(JobMonitor(testbed, starts.history))
    await stack.enter_async_context(PodGuard(testbed, starts.history, monitor.finishing))
    team = Team(testbed, monitor, starts, random.Random(rng.random()))
    await stack.enter_async_context(team.kubelet)
    return team


async def _open_actor(
    stack: AsyncExitStack,
    client: KubeClient,
    run: str,
    kind: type[Actor],
    surroundings: Surroundings,
) -> Actor:
    testbed = await _open_testbed(stack, client, f"{kind.name}-{run}")
    testbed.timeout_seconds = ACTOR_TIMEOUT_SECONDS
    actor = kind(testbed, surroundings)
    await actor.open(stack)
    return actor


async def _open_testbed(stack: AsyncExitStack, client: KubeClient, name: str) -> Testbed:
    testbed = Testbed(client, name)
    await testbed.open()
    stack.push_async_callback(testbed.close)
    return testbed
