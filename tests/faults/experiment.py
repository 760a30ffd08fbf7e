"""A run: a seeded schedule of operations and faults, then the check of the final state."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.faults.checker import Checker
from tests.faults.fault_injector import NODES, FaultInjector
from tests.faults.history import History, Violation
from tests.faults.monitor import PodMonitor
from tests.faults.nodes import Nodes
from tests.faults.operators import Replica, make_replica
from tests.faults.workload import Workload
from tests.support.kubelet import Kubelet
from tests.support.proxy import Proxy
from tests.support.testbed import Testbed
from tests.support.waiting import eventually
from trainyard.cluster.client import KubeClient

OPERATION_SHARE = 0.65
REPLICA_FAULT_SHARE = 0.25
"""Of the steps; the rest are faults of nodes."""
STEP_SECONDS = (0.02, 0.8)
SETTLE_SECONDS = 150
"""Unreachable nodes, restart backoffs and the grace period of finished jobs take that long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """The workload, the faults and the checks of one run."""

    rng: random.Random
    history: History
    workload: Workload
    injector: FaultInjector
    checker: Checker

    async def run(self, seconds: float) -> None:
        """Inject faults for that long, then check the final state; raises Violation."""
        try:
            async with asyncio.timeout(seconds):
                while not self.history.violations:
                    await self._step()
        except TimeoutError:
            pass
        await self.injector.wait()
        try:
            await eventually(self.checker.check, SETTLE_SECONDS)
        except AssertionError as error:
            self.history.record_violation(str(error))
        for replica in self.injector.replicas:
            replica.check_log()
        if self.history.violations:
            raise Violation(self.history.report("the final state or an invariant is violated"))

    async def _step(self) -> None:
        """Perform one operation or begin one fault, then pause."""
        roll = self.rng.random()
        if roll < OPERATION_SHARE:
            await self.workload.perform(self.rng)
        elif roll < OPERATION_SHARE + REPLICA_FAULT_SHARE:
            await self.injector.fault_replica()
        else:
            await self.injector.fault_node()
        self.injector.check_tasks()
        await asyncio.sleep(self.rng.uniform(*STEP_SECONDS))


@asynccontextmanager
async def open_experiment(
    kubeconfig: Path, folder: Path, seed: int, *, replicas: int = 3, is_verbose: bool = False
) -> AsyncIterator[Experiment]:
    """An experiment whose nodes are ready and whose replicas are started."""
    history = History(seed, folder / "events.log", is_verbose=is_verbose)
    rng = random.Random(seed)
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(await KubeClient.connect(kubeconfig))
        testbed = Testbed(client, f"faults-{uuid.uuid4().hex[:8]}")
        namespace = f"{testbed.namespace}-operator"
        await testbed.open()
        stack.push_async_callback(testbed.close)
        await client.create("/api/v1/namespaces", {"metadata": {"name": namespace}})
        stack.push_async_callback(client.delete, f"/api/v1/namespaces/{namespace}")
        kubelet = await stack.enter_async_context(Kubelet(testbed))
        monitor = await stack.enter_async_context(PodMonitor(testbed, history))
        nodes = Nodes(testbed, kubelet, monitor.ignore)
        workload = Workload(testbed, kubelet, history)
        await nodes.add(NODES)
        started = []
        for number in range(replicas):
            name = f"replica-{number}"
            started.append(
                await _start_replica(stack, kubeconfig, namespace, folder, name, history)
            )
        tasks = [asyncio.create_task(workload.train())]
        tasks += [asyncio.create_task(replica.supervise()) for replica in started]
        stack.push_async_callback(_cancel, tasks)
        yield Experiment(
            rng=rng,
            history=history,
            workload=workload,
            injector=FaultInjector(rng, history, client, namespace, nodes, started),
            checker=Checker(testbed, workload, namespace),
        )


async def _start_replica(
    stack: AsyncExitStack,
    kubeconfig: Path,
    namespace: str,
    folder: Path,
    name: str,
    history: History,
) -> Replica:
    """A started replica behind its own proxy; both end with the stack."""
    proxy = await stack.enter_async_context(Proxy(kubeconfig))
    replica = make_replica(kubeconfig, namespace, folder, name, proxy, history)
    stack.push_async_callback(asyncio.to_thread, replica.process.kill)
    replica.start()
    return replica


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    """Cancel the tasks; raises the error of one that had failed before."""
    failed = [task for task in tasks if task.done()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for task in failed:
        task.result()
