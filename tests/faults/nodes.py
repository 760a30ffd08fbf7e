"""Faults of the simulated nodes: they are removed or disconnected, and restored."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import UTC, datetime

from tests.support import manifests
from tests.support.kubelet import Kubelet
from tests.support.testbed import Testbed
from trainyard.cluster.errors import ApiError

GPUS = 8


class Nodes:
    """Simulated nodes and their faults."""

    def __init__(
        self, testbed: Testbed, kubelet: Kubelet, on_pod_lost: Callable[[str], None]
    ) -> None:
        self._on_pod_lost = on_pod_lost
        self._testbed, self._client, self._kubelet = testbed, testbed.client, kubelet
        self.names: list[str] = []
        self._removed: set[str] = set()
        self._restoring: set[str] = set()

    @property
    def healthy(self) -> list[str]:
        """Nodes without a fault."""
        faulty = self._removed | self._kubelet.unreachable | self._restoring
        return [name for name in self.names if name not in faulty]

    async def add(self, count: int) -> None:
        """Add nodes."""
        self.names += await self._testbed.add_nodes(*[GPUS] * count, is_attended=False)

    async def remove(self, name: str) -> None:
        """Delete the node and its pods."""
        self._removed.add(name)
        await self._client.delete(f"/api/v1/nodes/{name}")
        for pod in await self._testbed.pods():
            if pod["spec"].get("nodeName") == name:
                self._on_pod_lost(pod["metadata"]["uid"])
                await self._kubelet.remove(pod)

    async def disconnect(self, name: str) -> None:
        """Stop the node's heartbeats and its kubelet; its processes go on."""
        self._kubelet.unreachable.add(name)
        await self._set_ready(name, "Unknown")

    async def restore(self, name: str) -> None:
        """End the node's fault."""
        if name in self._removed:
            node = manifests.node(name, self._testbed.namespace, GPUS, is_attended=False, labels={})
            with contextlib.suppress(ApiError):  # it was created before a response was lost
                await self._client.create("/api/v1/nodes", node)
            self._removed.discard(name)
            return
        self._restoring.add(name)
        self._kubelet.unreachable.discard(name)
        await self._kubelet.renew_lease(name)
        await self._set_ready(name, "True")
        await self._kubelet.sync_all()
        self._restoring.discard(name)

    async def _set_ready(self, name: str, status: str) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        condition = {
            "type": "Ready",
            "status": status,
            "reason": "Simulated",
            "lastHeartbeatTime": now,
            "lastTransitionTime": now,
        }
        patch = {"status": {"conditions": [condition]}}
        await self._testbed.patch(f"/api/v1/nodes/{name}/status", patch)
