"""The kubelet of a yard's unattended nodes, played by a test: pods start, end, and are held up.

KWOK runs each pending pod of its nodes, and now and then runs it once more when a test has just
ended it, so the pods whose ends matter live on nodes that KWOK does not attend.
"""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import Any

from tests.support.manifests import Object
from tests.support.watching import PodWatcher
from tests.support.yard import MERGE, Yard
from trainyard.cluster.client import ApiError, KubeClient, collection
from trainyard_trainer.contract.exits import Result, TerminationMessage


class Kubelet(PodWatcher):
    """Starts and removes the pods of a yard while the context lasts, unless it is told to wait."""

    def __init__(self, yard: Yard) -> None:
        super().__init__(yard)
        self._kube: KubeClient = yard.kube
        self._started: set[str] = set()
        self.starts = True
        """Whether pods that are bound to a node start."""
        self.stops = True
        """Whether pods that are asked to leave go."""
        self.silent: set[str] = set()
        """Nodes that cannot be reached: what is asked of their pods is not heard."""

    async def run(self, pod: Object) -> None:
        """The pod's container runs."""
        self._started.add(pod["metadata"]["uid"])
        state = {"running": {"startedAt": _now()}}
        await self._tell(pod, phase="Running", podIP="192.0.2.1", **_container(pod, state))

    async def end(
        self,
        pod: Object,
        exit_code: int,
        *,
        words: TerminationMessage | str = "",
        reason: str = "",
        **status: Any,
    ) -> None:
        """The pod's process has ended with this code and these last words."""
        ended = {
            "exitCode": exit_code,
            "reason": reason or ("Error" if exit_code else "Completed"),
            "message": words.encode() if isinstance(words, TerminationMessage) else words,
            "finishedAt": _now(),
        }
        phase = "Failed" if exit_code else "Succeeded"
        await self._tell(pod, phase=phase, **_container(pod, {"terminated": ended}), **status)

    async def fail(self, pod: Object, error: str, exit_code: int = 1) -> None:
        """The trainer has failed and said why."""
        words = TerminationMessage(result=Result.FAILED, error=error)
        await self.end(pod, exit_code, words=words)

    async def disrupt(self, pod: Object) -> None:
        """The cluster takes the pod away, as a drain or a preemption does."""
        target = {
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "EvictionByEvictionAPI",
            "lastTransitionTime": _now(),
        }
        await self.end(pod, 137, conditions=[target])

    async def hold_up(self, pod: Object, reason: str, message: str) -> None:
        """The pod's container does not start."""
        state = {"waiting": {"reason": reason, "message": message}}
        await self._tell(pod, phase="Pending", **_container(pod, state))

    async def remove(self, pod: Object) -> None:
        """The pod is gone: its process has ended after it was asked to, or its node was lost."""
        meta = pod["metadata"]
        path = f"{collection('v1', 'pods', meta['namespace'])}/{meta['name']}"
        await self._kube.delete(path, uid=meta["uid"], grace_seconds=0)

    async def take(self, kind: str, pod: Object) -> None:
        """Do what the pod's present state asks for."""
        if kind != "DELETED":
            # What has changed meanwhile is told by the next event.
            with contextlib.suppress(ApiError):
                await self._serve(pod)

    async def catch_up(self) -> None:
        """See to what was asked while a node was silent."""
        for pod in await self.yard.pods():
            with contextlib.suppress(ApiError):
                await self._serve(pod)

    async def _serve(self, pod: Object) -> None:
        meta = pod["metadata"]
        if pod["spec"].get("nodeName") in self.silent:
            return
        if "deletionTimestamp" in meta:
            if self.stops:
                await self.remove(pod)
        elif self.starts and pod["spec"].get("nodeName") and meta["uid"] not in self._started:
            await self.run(pod)

    async def _tell(self, pod: Object, **status: Any) -> None:
        meta = pod["metadata"]
        path = f"{collection('v1', 'pods', meta['namespace'])}/{meta['name']}/status"
        body = {"metadata": {"uid": meta["uid"]}, "status": status}
        await self._kube.request("PATCH", path, body=body, content_type=MERGE)


def _container(pod: Object, state: Object) -> Object:
    [container] = pod["spec"]["containers"]
    told = {
        "name": container["name"],
        "image": container["image"],
        "imageID": "",
        "ready": "running" in state,
        "started": "running" in state,
        "restartCount": 0,
        "state": state,
    }
    return {"containerStatuses": [told]}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
