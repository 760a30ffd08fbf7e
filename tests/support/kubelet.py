"""A fake kubelet for a testbed's unattended nodes, which a test can control.

KWOK runs every pending pod of its nodes, and sometimes a pod again that a test has just ended.
Tests of pods' ends therefore use nodes that KWOK does not attend.
"""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from tests.support.manifests import Object
from tests.support.pod_watcher import PodWatcher
from tests.support.testbed import Testbed
from trainyard.cluster.client import MERGE_PATCH, KubeClient, collection
from trainyard.cluster.errors import ApiError
from trainyard_trainer.contract.exits import Result, TerminationMessage

HEARTBEAT_SECONDS = 8.0
"""The node controller's grace period is 50 s; without heartbeats it taints the node after that."""
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"


class Kubelet(PodWatcher):
    """Starts and removes a testbed's pods while the context lasts, unless switched off.

    It sends the heartbeats of the unattended nodes.
    """

    def __init__(self, testbed: Testbed) -> None:
        super().__init__(testbed)
        self._kube: KubeClient = testbed.client
        self._started: set[str] = set()
        self.starts = True
        """Whether pods that are bound to a node start."""
        self.stops = True
        """Whether pods that are being deleted end."""
        self.sidecar = ""
        """A container that a service mesh adds: it goes on when the trainer has ended."""
        self.start_seconds = 0.0
        """How long a container takes to start."""
        self._starting: set[asyncio.Task[None]] = set()
        self.unreachable: set[str] = set()
        """Nodes without heartbeats, whose pods are neither started nor removed."""
        self._heartbeats: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._heartbeats = asyncio.create_task(self._send_heartbeats(), name="heartbeats")
        return await super().__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        await super().__aexit__(kind, error, tb)
        assert self._heartbeats is not None
        tasks = [self._heartbeats, *self._starting]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for node in self.testbed.unattended_nodes:
            await self._kube.delete(f"{LEASES}/{node}")

    async def run(self, pod: Object) -> None:
        """Report that the pod's container runs."""
        self._started.add(pod["metadata"]["uid"])
        status = self._containers(pod, {"running": {"startedAt": _now()}})
        try:
            address = await self.address_of(pod)
            await self._patch_status(pod, phase="Running", podIP=address, **status)
        except ApiError:
            self._started.discard(pod["metadata"]["uid"])
            raise

    async def address_of(self, pod: Object) -> str:  # noqa: ARG002 - of each the same
        """The address of a pod that starts: by default one at which nothing answers."""
        return "192.0.2.1"

    async def end(
        self,
        pod: Object,
        exit_code: int,
        *,
        message: TerminationMessage | str = "",
        reason: str = "",
        **status: Any,
    ) -> None:
        """Report the end of the pod's process with an exit code and a termination message."""
        ended = {
            "exitCode": exit_code,
            "reason": reason or ("Error" if exit_code else "Completed"),
            "message": message.encode() if isinstance(message, TerminationMessage) else message,
            "finishedAt": _now(),
        }
        phase = "Failed" if exit_code else "Succeeded"
        await self._patch_status(
            pod,
            phase="Running" if self.sidecar else phase,
            **self._containers(pod, {"terminated": ended}),
            **status,
        )

    async def fail(self, pod: Object, error: str, exit_code: int = 1) -> None:
        """Report that the trainer has failed, with an error in its termination message."""
        message = TerminationMessage(result=Result.FAILED, error=error)
        await self.end(pod, exit_code, message=message)

    async def disrupt(self, pod: Object) -> None:
        """Report a disruption of the pod, as by a drain or a preemption."""
        target = {
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "EvictionByEvictionAPI",
            "lastTransitionTime": _now(),
        }
        await self.end(pod, 137, conditions=[target])

    async def lose(self, pod: Object) -> None:
        """Report that there is no container of a pod that is being deleted before it started."""
        lost = {
            "exitCode": 137,
            "reason": "ContainerStatusUnknown",
            "message": "The container could not be located when the pod was deleted.",
            "startedAt": None,
            "finishedAt": None,
        }
        await self._patch_status(pod, phase="Failed", **self._containers(pod, {"terminated": lost}))

    async def warn(self, pod: Object, reason: str, message: str) -> None:
        """Record a Warning about the pod."""
        meta = pod["metadata"]
        about = {"apiVersion": "v1", "kind": "Pod", "namespace": meta["namespace"]}
        await self.testbed.create(
            "events",
            {
                "metadata": {"generateName": f"{meta['name']}."},
                "involvedObject": {**about, "name": meta["name"], "uid": meta["uid"]},
                "type": "Warning",
                "reason": reason,
                "message": message,
                "lastTimestamp": _now(),
                "source": {"component": "kubelet"},
            },
        )

    async def block(self, pod: Object, reason: str, message: str) -> None:
        """Report that the pod's container does not start."""
        state = {"waiting": {"reason": reason, "message": message}}
        await self._patch_status(pod, phase="Pending", **self._containers(pod, state))

    async def reject(self, pod: Object, reason: str, message: str) -> None:
        """Report that the node did not take the pod, which had been bound to it."""
        await self._patch_status(pod, phase="Failed", reason=reason, message=message)

    async def remove(self, pod: Object) -> None:
        """Remove the pod, as after the end of its process or the loss of its node."""
        meta = pod["metadata"]
        path = f"{collection('v1', 'pods', meta['namespace'])}/{meta['name']}"
        await self._kube.delete(path, uid=meta["uid"], grace_seconds=0)

    async def handle(self, kind: str, pod: Object) -> None:
        """Start or remove the pod, if due."""
        if kind != "DELETED":
            # A conflicting change has an event of its own.
            with contextlib.suppress(ApiError):
                await self._sync(pod)

    async def sync_all(self) -> None:
        """Start or remove all pods that are due, after a node was unreachable."""
        for pod in await self.testbed.pods():
            with contextlib.suppress(ApiError):
                await self._sync(pod)

    async def _sync(self, pod: Object) -> None:
        meta = pod["metadata"]
        if pod["spec"].get("nodeName") in self.unreachable:
            return
        if "deletionTimestamp" in meta:
            if self.stops:
                await self.remove(pod)
        elif self.starts and pod["spec"].get("nodeName") and meta["uid"] not in self._started:
            await self._start(pod)

    async def _start(self, pod: Object) -> None:
        if not self.start_seconds:
            await self.run(pod)
            return
        self._started.add(pod["metadata"]["uid"])
        task = asyncio.create_task(self._start_slowly(pod))
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)

    async def _start_slowly(self, pod: Object) -> None:
        await asyncio.sleep(self.start_seconds)
        with contextlib.suppress(ApiError):  # it was deleted meanwhile
            await self.run(pod)

    async def _send_heartbeats(self) -> None:
        while True:
            for node in self.testbed.unattended_nodes:
                if node not in self.unreachable:
                    with contextlib.suppress(ApiError):
                        await self.renew_lease(node)
            await asyncio.sleep(HEARTBEAT_SECONDS)

    async def renew_lease(self, node: str) -> None:
        """Send a heartbeat of the node."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {"holderIdentity": node, "leaseDurationSeconds": 40, "renewTime": now}
        try:
            await self.testbed.patch(f"{LEASES}/{node}", {"spec": spec})
        except ApiError as error:
            if not error.is_missing:
                raise
            await self._kube.create(LEASES, {"metadata": {"name": node}, "spec": spec})

    def _containers(self, pod: Object, state: Object) -> Object:
        """The statuses of the trainer, which is in that state, and of the side-car."""
        [container] = pod["spec"]["containers"]
        statuses = [_container(container["name"], container["image"], state)]
        if self.sidecar:
            state = {"running": {"startedAt": _now()}}
            statuses.insert(0, _container(self.sidecar, "proxy:1", state))
        return {"containerStatuses": statuses}

    async def _patch_status(self, pod: Object, **status: Any) -> None:
        meta = pod["metadata"]
        path = f"{collection('v1', 'pods', meta['namespace'])}/{meta['name']}/status"
        body = {"metadata": {"uid": meta["uid"]}, "status": status}
        await self._kube.request("PATCH", path, body=body, content_type=MERGE_PATCH)


def _container(name: str, image: str, state: Object) -> Object:
    return {
        "name": name,
        "image": image,
        "imageID": "",
        "ready": "running" in state,
        "started": "running" in state,
        "restartCount": 0,
        "state": state,
    }


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
