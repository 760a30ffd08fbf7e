"""The testbed's nodes, which go, fall silent, and come back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from datetime import UTC, datetime

from tests.support import manifests
from tests.support.kubelet import Kubelet
from tests.support.testbed import Testbed
from trainyard.cluster.client import ApiError

HEARTBEAT_SECONDS = 8.0
"""The node controller takes a node for lost after 40 s without a sign of life."""
GPUS = 8
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"


class Nodes:
    """Nodes without machines: their signs of life and their ends."""

    def __init__(self, testbed: Testbed, kubelet: Kubelet, lost: Callable[[str], None]) -> None:
        self._lost = lost
        self._testbed, self._kube, self._kubelet = testbed, testbed.client, kubelet
        self.names: list[str] = []
        self.gone: set[str] = set()
        self._returning: set[str] = set()
        """Nodes on their way back, to which nothing new happens until they are there."""

    @property
    def silent(self) -> set[str]:
        """Nodes that cannot be reached."""
        return self._kubelet.unreachable

    @property
    def there(self) -> list[str]:
        """Nodes that are as they should be."""
        return [n for n in self.names if n not in self.gone | self.silent | self._returning]

    async def add(self, number: int) -> None:
        """Add nodes."""
        self.names += await self._testbed.add_nodes(*[GPUS] * number, is_attended=False)

    async def live(self) -> None:
        """Give signs of life for all that can, until cancelled."""
        while True:
            for name in self.there:
                with contextlib.suppress(ApiError):
                    await self._heartbeat(name)
            await asyncio.sleep(HEARTBEAT_SECONDS)

    async def remove(self, name: str) -> None:
        """The node is gone, and all that ran on it."""
        self.gone.add(name)
        await self._kube.delete(f"/api/v1/nodes/{name}")
        for pod in await self._testbed.pods():
            if pod["spec"].get("nodeName") == name:
                self._lost(pod["metadata"]["uid"])
                await self._kubelet.remove(pod)

    async def silence(self, name: str) -> None:
        """The node cannot be reached any more; its processes go on."""
        self.silent.add(name)
        await self._tell(name, "Unknown")

    async def bring_back(self, name: str) -> None:
        """The node is as it should be again."""
        if name in self.gone:
            node = manifests.node(name, self._testbed.namespace, GPUS, is_attended=False, labels={})
            with contextlib.suppress(ApiError):  # it was made before an answer was lost
                await self._kube.create("/api/v1/nodes", node)
            self.gone.discard(name)
            return
        self._returning.add(name)
        self.silent.discard(name)
        await self._heartbeat(name)
        await self._tell(name, "True")
        await self._kubelet.sync_all()
        self._returning.discard(name)

    async def _tell(self, name: str, ready: str) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        condition = {
            "type": "Ready",
            "status": ready,
            "reason": "Played",
            "lastHeartbeatTime": now,
            "lastTransitionTime": now,
        }
        patch = {"status": {"conditions": [condition]}}
        await self._testbed.patch(f"/api/v1/nodes/{name}/status", patch)

    async def _heartbeat(self, name: str) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": now}
        try:
            await self._testbed.patch(f"{LEASES}/{name}", {"spec": spec})
        except ApiError as error:
            if not error.is_missing:
                raise
            await self._kube.create(LEASES, {"metadata": {"name": name}, "spec": spec})
