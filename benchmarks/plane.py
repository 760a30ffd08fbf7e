"""The plane: a control plane with simulated nodes, and fresh namespaces on it."""

from __future__ import annotations

import asyncio
import contextlib
import math
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.load import WORKERS, widen
from benchmarks.rights import install_crds, operator_kubeconfig
from benchmarks.usage import count_requests, plane_cpu_seconds
from tools.localcluster import Cluster, ClusterOptions, open_cluster
from trainyard.cluster.client import ApiError, KubeClient

GPUS_PER_NODE = 8
_SPARE = 1.2
"""Room for the workers that the churn run adds."""
_EMPTY_SECONDS = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The two namespaces of one run, and the operator's credentials there."""

    namespace: str
    operator_namespace: str
    kubeconfig: Path


class Plane:
    """A cluster to measure on, as its administrator sees it."""

    def __init__(self, cluster: Cluster, client: KubeClient, folder: Path) -> None:
        self.cluster, self.client, self.folder = cluster, client, folder

    @contextlib.asynccontextmanager
    async def place(self) -> AsyncIterator[Place]:
        """Two fresh namespaces; all that is in them is gone when the context is left."""
        token = uuid.uuid4().hex[:8]
        names = f"bench-jobs-{token}", f"bench-operator-{token}"
        for name in names:
            await self.client.create("/api/v1/namespaces", {"metadata": {"name": name}})
        try:
            yield Place(
                namespace=names[0],
                operator_namespace=names[1],
                kubeconfig=operator_kubeconfig(self.cluster, names[1], self.folder),
            )
        finally:
            for name in names:
                await self._remove(name)

    async def requests(self) -> Counter[str]:
        """Requests that the API server has answered, by verb and resource."""
        url = self.client.url("/metrics")
        async with self.client.session.get(url, headers=await self.client.headers()) as answer:
            return count_requests(await answer.text())

    def cpu_seconds(self) -> dict[str, float]:
        """CPU used so far by the plane's components, where they run on this machine."""
        return plane_cpu_seconds(str(self.cluster.kubeconfig.parent))

    async def _remove(self, namespace: str) -> None:
        path = f"/api/v1/namespaces/{namespace}"
        await self.client.delete(path)
        async with asyncio.timeout(_EMPTY_SECONDS):
            while True:
                try:
                    await self.client.get(path)
                except ApiError as error:
                    if error.is_missing:
                        return
                    raise
                await asyncio.sleep(0.5)


@contextlib.contextmanager
def simulated_cluster(name: str, jobs: int, *, stock_limits: bool) -> Iterator[Cluster]:
    """A control plane on whose simulated nodes so many jobs run at once."""
    nodes = math.ceil(jobs * WORKERS * _SPARE / GPUS_PER_NODE)
    options = ClusterOptions(
        name=name,
        control_plane_only=True,
        simulated_nodes=nodes,
        gpus_per_node=GPUS_PER_NODE,
        stock_limits=stock_limits,
    )
    with open_cluster(options) as cluster:
        install_crds(cluster)
        yield cluster


@contextlib.asynccontextmanager
async def open_plane(cluster: Cluster, folder: Path) -> AsyncIterator[Plane]:
    """Connect to the cluster."""
    async with await KubeClient.connect(cluster.kubeconfig) as client:
        yield Plane(cluster, widen(client), folder)
