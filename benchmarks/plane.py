"""The plane: a control plane with simulated nodes, and fresh namespaces on it."""

from __future__ import annotations

import asyncio
import contextlib
import math
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.load import WORKERS, unthrottled
from benchmarks.rights import TREE, install_crds, operator_kubeconfig
from benchmarks.usage import count_requests, plane_cpu_seconds
from tools.localcluster import Cluster, ClusterOptions, open_cluster
from trainyard.cluster.client import KubeClient, Object
from trainyard.cluster.objects import find

GPUS_PER_NODE = 8
_SPARE = 1.2
"""Room for the workers that the churn run adds."""
_EMPTY_SECONDS = 600
_READY_SECONDS = 60
_POLL_SECONDS = 0.2
_SERVED_SECONDS = 10
"""After this the API server serves changed CRDs, and has published their schemas."""
_CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """The two namespaces of one run, and the operator's credentials there."""

    namespace: str
    operator_namespace: str
    kubeconfig: Path


class Plane:
    """A cluster to measure on, as its administrator sees it."""

    def __init__(self, cluster: Cluster, client: KubeClient, folder: Path) -> None:
        self.cluster, self.client, self.folder = cluster, client, folder
        self._tree = TREE
        """Whose CRDs are installed."""

    @contextlib.asynccontextmanager
    async def namespace(self, prefix: str) -> AsyncIterator[str]:
        """A fresh namespace; all that is in it is gone when the context is left."""
        name = f"bench-{prefix}-{uuid.uuid4().hex[:8]}"
        await self.client.create("/api/v1/namespaces", {"metadata": {"name": name}})
        try:
            await self._await_service_account(name)
            yield name
        finally:
            await self._remove(f"/api/v1/namespaces/{name}")

    @contextlib.asynccontextmanager
    async def environment(self, tree: Path = TREE) -> AsyncIterator[Environment]:
        """Two fresh namespaces, with the CRDs and the operator's rights of a tree."""
        await self._install_crds(tree)
        async with self.namespace("jobs") as jobs, self.namespace("operator") as operator:
            yield Environment(
                namespace=jobs,
                operator_namespace=operator,
                kubeconfig=operator_kubeconfig(self.cluster, operator, self.folder, tree),
            )

    async def restore_crds(self) -> None:
        """Install this tree's CRDs, if another's are."""
        await self._install_crds(TREE)

    @contextlib.asynccontextmanager
    async def installed(self, crds: Sequence[Object]) -> AsyncIterator[None]:
        """Further CRDs, served until the context is left."""
        paths = [f"{_CRDS}/{crd['metadata']['name']}" for crd in crds]
        try:
            for crd in crds:
                await self.client.create(_CRDS, crd)
            for path in paths:
                await _until(partial(self._is_established, path), _READY_SECONDS)
            yield
        finally:
            for path in paths:
                await self._remove(path)

    async def requests(self) -> Counter[str]:
        """Requests that the API server has answered, by verb and resource."""
        url = self.client.url("/metrics")
        async with self.client.session.get(url, headers=await self.client.headers()) as answer:
            return count_requests(await answer.text())

    def cpu_seconds(self) -> dict[str, float]:
        """CPU used so far by the plane's components, where they run on this machine."""
        return plane_cpu_seconds(str(self.cluster.kubeconfig.parent))

    async def _install_crds(self, tree: Path) -> None:
        if tree != self._tree:
            install_crds(self.cluster, tree)
            self._tree = tree
            await asyncio.sleep(_SERVED_SECONDS)

    async def _await_service_account(self, namespace: str) -> None:
        """Without its default service account a namespace admits no pod."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/default"
        await _until(partial(self._exists, path), _READY_SECONDS)

    async def _remove(self, path: str) -> None:
        await self.client.delete(path)
        await _until(partial(self._is_gone, path), _EMPTY_SECONDS)

    async def _is_gone(self, path: str) -> bool:
        return not await self._exists(path)

    async def _is_established(self, path: str) -> bool:
        conditions = (await self.client.get(path)).get("status", {}).get("conditions") or []
        return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)

    async def _exists(self, path: str) -> bool:
        return await find(self.client, path) is not None


async def _until(condition: Callable[[], Awaitable[bool]], seconds: float) -> None:
    async with asyncio.timeout(seconds):
        while True:
            if await condition():
                return
            await asyncio.sleep(_POLL_SECONDS)


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
        yield Plane(cluster, unthrottled(client), folder)
