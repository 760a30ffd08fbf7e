"""Replicas of the operator with leader election, each behind its own proxy."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.manifests import Object
from tests.support.process import OperatorProcess
from tests.support.proxy import Proxy
from tests.support.waiting import eventually
from trainyard.cluster.client import KubeClient
from trainyard.cluster.objects import find

LEASE = "trainyard"
TIMES = ("--lease-duration=4s", "--renew-deadline=3s", "--retry-period=300ms")
"""Short for the sake of the tests, but enough for a busy machine."""
LEADER = re.compile(r"^trainyard_operator_leader (\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """One operator and its proxy to the API server."""

    process: OperatorProcess
    proxy: Proxy

    async def start(self) -> None:
        """Start the operator and wait until its caches are synced."""
        await self.process.start_until_ready()

    async def leads(self) -> bool:
        """Whether its metrics report it as the leader."""
        try:
            text = await asyncio.to_thread(self.process.metrics)
        except OSError as error:
            raise AssertionError(
                f"the replica does not respond: {error}\n{self.process.tail()}"
            ) from error
        match = LEADER.search(text)
        assert match, "the metric is missing"
        return float(match[1]) == 1


@asynccontextmanager
async def open_replica(
    kubeconfig: Path, namespace: str, folder: Path, name: str, *options: str
) -> AsyncIterator[Replica]:
    """A replica that is not started yet; killed at the end of the context."""
    async with Proxy(kubeconfig, records=True) as proxy:
        own_kubeconfig = proxy.write_kubeconfig(folder / f"{name}.kubeconfig")
        log = folder / f"{name}.log"
        election = ("--leader-elect", f"--lease-name={LEASE}", *TIMES, *options)
        process = OperatorProcess(own_kubeconfig, namespace, log, *election)
        try:
            yield Replica(process=process, proxy=proxy)
        finally:
            await asyncio.to_thread(process.kill)


async def open_replicas(
    stack: AsyncExitStack, kubeconfig: Path, namespace: str, folder: Path, *names: str
) -> list[Replica]:
    """Replicas that are killed at the end of the stack."""
    return [
        await stack.enter_async_context(open_replica(kubeconfig, namespace, folder, name))
        for name in names
    ]


async def lease(kube: KubeClient, namespace: str) -> Object:
    """The `spec` of the Lease; empty when there is none."""
    path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{LEASE}"
    found = await find(kube, path)
    return {} if found is None else found["spec"]


async def wait_until_leads(replica: Replica) -> None:
    """Wait until the replica leads."""

    async def check() -> None:
        assert await replica.leads(), f"the replica does not lead:\n{replica.process.tail()}"

    await eventually(check)
