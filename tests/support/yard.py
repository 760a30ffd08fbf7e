"""One test's namespace and nodes, and what a test asks of them and does to them.

Nodes of a yard are tainted for it alone, so that tests never compete for GPUs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from tests.support import manifests
from tests.support.manifests import Object
from tests.support.waiting import DEADLINE_SECONDS, eventually, stays
from trainyard.cluster.client import ApiError, KubeClient, collection

MERGE = "application/merge-patch+json"
JOBS = "trainyard.dev/v1alpha1"
SHOWN = 3000
"""Characters of a job that a failed wait shows."""


class Yard:
    """A namespace, its jobs and pods, and the nodes that only they may use."""

    def __init__(self, kube: KubeClient, name: str, kind: str = "DistributedJob") -> None:
        self.kube = kube
        self.name = name
        """Of the namespace and of the pool of nodes."""
        self.kind = kind
        """Of the jobs that it is about."""
        self._nodes: list[str] = []

    # --- The place ---

    async def open(self) -> None:
        """Create the namespace."""
        await self.kube.create("/api/v1/namespaces", {"metadata": {"name": self.name}})

    async def close(self) -> None:
        """Leave nothing that the tests after this one would meet."""
        for item in await self.jobs():
            await self.kube.delete(self.job_path(item["metadata"]["name"]))
        body = {"gracePeriodSeconds": 0}
        await self.kube.request("DELETE", self.path("pods"), body=body)
        await self.kube.delete(f"/api/v1/namespaces/{self.name}")
        for node in self._nodes:
            await self.kube.delete(f"/api/v1/nodes/{node}")

    async def add_nodes(
        self,
        *sizes: int,
        is_attended: bool = True,
        is_cordoned: bool = False,
        labels: Object | None = None,
    ) -> list[str]:
        """Add nodes of so many GPUs each and wait until pods can be bound to them.

        Until it is uncordoned, no pod is bound to a cordoned one.
        """
        made = []
        wanted = {manifests.POOL, *(["node.kubernetes.io/unschedulable"] if is_cordoned else [])}
        for gpus in sizes:
            name = f"{self.name}-{len(self._nodes)}"
            node = manifests.node(
                name, self.name, gpus, is_attended=is_attended, labels=labels or {}
            )
            node["spec"]["unschedulable"] = is_cordoned
            await self.kube.create("/api/v1/nodes", node)
            self._nodes.append(name)
            made.append(name)

        async def usable() -> None:
            for name in made:
                node = await self.kube.get(f"/api/v1/nodes/{name}")
                taints = {taint["key"] for taint in node["spec"]["taints"]}
                assert taints == wanted, f"{name} is not ready: {taints}"

        await eventually(usable)
        return made

    async def patch_node(self, name: str, patch: Object) -> None:
        """Change fields of a node."""
        await self.patch(f"/api/v1/nodes/{name}", patch)

    # --- Jobs ---

    def job(self, name: str, replicas: int = 1, **wishes: Any) -> Object:
        """A job's manifest for this yard; see `manifests.job`."""
        return manifests.job(name, self.name, replicas, **wishes)

    async def submit(self, name: str, replicas: int = 1, **wishes: Any) -> Object:
        """Create a job."""
        return await self.create_job(self.job(name, replicas, **wishes))

    async def federate(self, name: str, parties: list[Object], **wishes: Any) -> Object:
        """Create a FederatedJob; see `manifests.federation`."""
        return await self.create_job(manifests.federation(name, self.name, parties, **wishes))

    async def create_job(self, manifest: Object) -> Object:
        """Create a job as a user does, under another field manager than the operator's."""
        return await self.kube.request("POST", self.path_of_jobs, body=manifest)

    async def get(self, name: str) -> Object:
        """A job."""
        return await self.kube.get(self.job_path(name))

    async def jobs(self) -> list[Object]:
        """All jobs."""
        return [item async for item in self.kube.list_all(self.path_of_jobs)]

    async def change(self, name: str, **spec: Any) -> Object:
        """Merge into a job's spec."""
        return await self.patch(self.job_path(name), {"spec": spec})

    async def scale(self, name: str, replicas: int) -> None:
        """Write the scale subresource, as kubectl and an autoscaler do."""
        await self.patch(f"{self.job_path(name)}/scale", {"spec": {"replicas": replicas}})

    async def delete(self, name: str) -> None:
        """Delete a job."""
        await self.kube.delete(self.job_path(name))

    async def until(
        self, name: str, claim: Callable[[Object], Any], seconds: float = DEADLINE_SECONDS
    ) -> Object:
        """The job once the claim about it holds."""

        async def check() -> Object:
            found = await self.get(name)
            shown = msgspec.json.format(msgspec.json.encode(found.get("status"))).decode()
            assert claim(found), f"not so of job {name}:\n{shown[:SHOWN]}"
            return found

        return await eventually(check, seconds)

    async def until_phase(self, name: str, *phases: str) -> Object:
        """The job once it is in one of the phases."""
        return await self.until(name, lambda job: phase(job) in phases)

    async def until_steady(self, name: str) -> Object:
        """The job once its status says so, some seconds after the decision: then all is told."""
        return await self.until(name, lambda job: scaling(job).get("reason") == "Steady")

    async def events(self, name: str) -> list[Object]:
        """The Events of a job, oldest first."""
        selector = f"involvedObject.kind={self.kind},involvedObject.name={name}"
        events = self.kube.list_all(self.path("events"), field_selector=selector)
        ours = [event async for event in events]
        return sorted(ours, key=lambda event: int(event["metadata"]["resourceVersion"]))

    async def until_events(self, name: str, reason: str, number: int = 1) -> list[Object]:
        """The Events of a job for that reason, once there are so many; they follow the status."""

        async def check() -> list[Object]:
            found = [event for event in await self.events(name) if event["reason"] == reason]
            assert len(found) == number
            return found

        return await eventually(check)

    async def until_quiet(self, seconds: float) -> list[Object]:
        """The jobs, once none of them has been written for so long."""

        async def versions() -> list[str]:
            return [job["metadata"]["resourceVersion"] for job in await self.jobs()]

        async def check() -> list[Object]:
            before = await versions()

            async def same() -> None:
                assert await versions() == before

            await stays(same, seconds)
            return await self.jobs()

        return await eventually(check)

    # --- Pods and other children ---

    async def pods(self, job: str = "", role: str = "") -> list[Object]:
        """The pods there are, by name; of a job, of a role, or all."""
        wanted = {"trainyard.dev/job": job, "trainyard.dev/role": role}
        selector = ",".join(f"{key}={value}" for key, value in wanted.items() if value)
        found = [p async for p in self.kube.list_all(self.path("pods"), label_selector=selector)]
        return sorted(found, key=lambda pod: str(pod["metadata"]["name"]))

    async def pod(self, name: str) -> Object:
        """A pod."""
        return await self.kube.get(f"{self.path('pods')}/{name}")

    async def until_pods(
        self, job: str, *names: str, seconds: float = DEADLINE_SECONDS
    ) -> list[Object]:
        """The job's pods once they are just these, by the names after the job's, and all run."""
        wanted = sorted(f"{job}-{name}" for name in names)

        async def check() -> list[Object]:
            pods = await self.pods(job)
            assert [p["metadata"]["name"] for p in pods] == wanted
            assert [p["status"]["phase"] for p in pods] == ["Running"] * len(wanted)
            assert not [p for p in pods if "deletionTimestamp" in p["metadata"]]
            return pods

        return await eventually(check, seconds)

    async def exists(self, path: str) -> bool:
        """Whether there is an object at the path."""
        try:
            await self.kube.get(path)
        except ApiError as error:
            if error.is_missing:
                return False
            raise
        return True

    async def patch(self, path: str, patch: Object) -> Object:
        """Send a merge patch."""
        return await self.kube.request("PATCH", path, body=patch, content_type=MERGE)

    def path(self, plural: str) -> str:
        """The path of a core collection in this namespace."""
        return collection("v1", plural, self.name)

    @property
    def path_of_jobs(self) -> str:
        """The path of the collection of jobs."""
        return collection(JOBS, f"{self.kind.lower()}s", self.name)

    def job_path(self, name: str) -> str:
        """The path of a job."""
        return f"{self.path_of_jobs}/{name}"


def phase(job: Object) -> str:
    """The job's phase; empty before the first status."""
    return str(job.get("status", {}).get("phase", ""))


def condition(job: Object, type_: str) -> Object:
    """The condition of that type; empty strings when there is none."""
    found = job.get("status", {}).get("conditions", [])
    none = {"status": "", "reason": "", "message": ""}
    return next((c for c in found if c["type"] == type_), none)


def scaling(job: Object) -> Object:
    """The job's `status.scaling`; empty before the first decision."""
    found: Object = job.get("status", {}).get("scaling", {})
    return found


def workers(*indices: int, attempt: int = 1) -> list[str]:
    """The names of workers' pods, without the job's."""
    return [f"worker-{index}-{attempt}" for index in indices]
