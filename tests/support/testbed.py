"""The namespace of one test: its jobs, pods, Events and simulated nodes.

A testbed's nodes are tainted for its own pods, so that tests do not compete for GPUs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from tests.support import manifests
from tests.support.manifests import Object
from tests.support.waiting import POLL_SECONDS, TIMEOUT_SECONDS, consistently, eventually
from trainyard.api import names
from trainyard.cluster.client import MERGE_PATCH, KubeClient, collection
from trainyard.cluster.objects import find


class Testbed:
    """A namespace with jobs and pods, and nodes that only these pods tolerate."""

    __test__ = False  # not a test class, whatever its name begins with

    timeout_seconds = TIMEOUT_SECONDS
    poll_seconds = POLL_SECONDS
    """Both of `wait_for`."""

    def __init__(self, client: KubeClient, namespace: str) -> None:
        self.client = client
        self.namespace = namespace
        """Also the name of the pool of nodes."""
        self._kinds: dict[str, str] = {}
        """The kind of each job that was created, by its name."""
        self._nodes: list[str] = []
        self.unattended_nodes: list[str] = []
        """Nodes whose kubelet the test plays; see `tests.support.kubelet`."""

    async def open(self, **labels: str) -> None:
        """Create the namespace."""
        metadata = {"name": self.namespace, "labels": labels}
        await self.client.create("/api/v1/namespaces", {"metadata": metadata})

    async def close(self) -> None:
        """Delete the namespace, its contents and the nodes."""
        for kind in names.PLURALS:
            async for item in self.client.list_all(self.jobs_path(kind)):
                await self.client.delete(f"{self.jobs_path(kind)}/{item['metadata']['name']}")
        body = {"gracePeriodSeconds": 0}
        await self.client.request("DELETE", self.path("pods"), body=body)
        await self.client.delete(f"/api/v1/namespaces/{self.namespace}")
        for node in self._nodes:
            await self.client.delete(f"/api/v1/nodes/{node}")

    # --- Objects ---

    def path(self, plural: str, name: str = "") -> str:
        """The path of a core collection in the namespace, or of one object in it."""
        root = collection("v1", plural, self.namespace)
        return f"{root}/{name}" if name else root

    async def create(self, plural: str, manifest: Object) -> Object:
        """Create a core object in the namespace."""
        return await self.client.create(self.path(plural), manifest)

    async def exists(self, path: str) -> bool:
        """Whether there is an object at the path."""
        return await find(self.client, path) is not None

    async def patch(self, path: str, patch: Object) -> Object:
        """Apply a merge patch to the object at the path."""
        return await self.client.request("PATCH", path, body=patch, content_type=MERGE_PATCH)

    # --- Nodes ---

    async def add_nodes(
        self,
        *sizes: int,
        is_attended: bool = True,
        is_cordoned: bool = False,
        labels: Object | None = None,
    ) -> list[str]:
        """Add a simulated node for each number of GPUs and wait until it is ready.

        KWOK plays the kubelet of attended nodes, `tests.support.kubelet` that of the others.
        """
        added = []
        expected = {manifests.POOL, *(["node.kubernetes.io/unschedulable"] if is_cordoned else [])}
        for gpus in sizes:
            name = f"{self.namespace}-{len(self._nodes)}"
            node = manifests.node(
                name, self.namespace, gpus, is_attended=is_attended, labels=labels or {}
            )
            node["spec"]["unschedulable"] = is_cordoned
            await self.client.create("/api/v1/nodes", node)
            self._nodes.append(name)
            if not is_attended:
                self.unattended_nodes.append(name)
            added.append(name)

        async def ready() -> None:
            for name in added:
                node = await self.client.get(f"/api/v1/nodes/{name}")
                taints = {taint["key"] for taint in node["spec"]["taints"]}
                assert taints == expected, f"{name} is not ready: {taints}"

        await eventually(ready)
        return added

    # --- Jobs ---

    def job_manifest(self, name: str, replicas: int = 1, **options: Any) -> Object:
        """The manifest of a DistributedJob for the testbed's nodes; see `manifests.job`."""
        return manifests.job(name, self.namespace, replicas, **options)

    async def submit(self, name: str, replicas: int = 1, **options: Any) -> Object:
        """Create a DistributedJob; see `manifests.job`."""
        return await self.create_job(self.job_manifest(name, replicas, **options))

    async def federate(self, name: str, parties: list[Object], **options: Any) -> Object:
        """Create a FederatedJob; see `manifests.federation`."""
        manifest = manifests.federation(name, self.namespace, parties, **options)
        return await self.create_job(manifest)

    async def create_job(self, manifest: Object) -> Object:
        """Create a job as a user does, with another field manager than the operator's."""
        self._kinds[manifest["metadata"]["name"]] = manifest["kind"]
        return await self.client.request("POST", self.jobs_path(manifest["kind"]), body=manifest)

    def jobs_path(self, kind: str) -> str:
        """The path of the collection of jobs of a kind."""
        return collection(names.API_VERSION, names.PLURALS[kind], self.namespace)

    def job_path(self, name: str) -> str:
        """The path of a job that was created here."""
        return f"{self.jobs_path(self._kinds[name])}/{name}"

    async def get(self, name: str) -> Object:
        """A job."""
        return await self.client.get(self.job_path(name))

    async def jobs(self) -> list[Object]:
        """All jobs of both kinds."""
        paths = [self.jobs_path(kind) for kind in names.PLURALS]
        return [item for path in paths async for item in self.client.list_all(path)]

    async def update_spec(self, name: str, **spec: Any) -> Object:
        """Merge fields into a job's spec."""
        return await self.patch(self.job_path(name), {"spec": spec})

    async def scale(self, name: str, replicas: int) -> None:
        """Write the scale subresource, as `kubectl scale` and an autoscaler do."""
        await self.patch(f"{self.job_path(name)}/scale", {"spec": {"replicas": replicas}})

    async def delete(self, name: str) -> None:
        """Delete a job."""
        await self.client.delete(self.job_path(name))

    async def describe(self, name: str) -> str:
        """What a failed wait shows of a job: its status."""
        job = await self.get(name)
        return msgspec.json.format(msgspec.json.encode(job.get("status"))).decode()

    async def wait_for(
        self,
        name: str,
        predicate: Callable[[Object], Any],
        description: str = "as expected",
        seconds: float | None = None,
    ) -> Object:
        """The job once the predicate is true of it."""
        timeout = self.timeout_seconds if seconds is None else seconds

        async def check() -> Object:
            job = await self.get(name)
            assert predicate(job)
            return job

        try:
            return await eventually(check, timeout, self.poll_seconds)
        except AssertionError:
            status = await self.describe(name)
        raise AssertionError(f"{name}: not within {timeout:g} s: {description}\n{status}")

    async def wait_for_phase(self, name: str, *phases: str, seconds: float | None = None) -> Object:
        """The job once it is in one of the phases."""
        description = " or ".join(phases)
        return await self.wait_for(name, lambda job: phase(job) in phases, description, seconds)

    async def wait_until_settled(self, name: str) -> Object:
        """The job once its scaling is `Steady`, some seconds after the last decision.

        At the replicas that its spec asks for: the status of an earlier size may be steady too.
        """

        def is_settled(job: Object) -> bool:
            observed, replicas = scaling(job), job["spec"]["workers"]["replicas"]
            return observed.get("reason") == "Steady" and observed.get("current") == replicas

        return await self.wait_for(name, is_settled, "Steady at the replicas of its spec")

    async def wait_until_unchanged(self, seconds: float) -> list[Object]:
        """The jobs once none of them has been written for that long."""

        async def versions() -> list[str]:
            return [job["metadata"]["resourceVersion"] for job in await self.jobs()]

        async def check() -> list[Object]:
            before = await versions()

            async def unchanged() -> None:
                assert await versions() == before

            await consistently(unchanged, seconds)
            return await self.jobs()

        return await eventually(check)

    # --- Events ---

    async def events(self, name: str) -> list[Object]:
        """The Events of a job, oldest first."""
        selector = f"involvedObject.kind={self._kinds[name]},involvedObject.name={name}"
        listed = self.client.list_all(self.path("events"), field_selector=selector)
        events = [event async for event in listed]
        return sorted(events, key=lambda event: int(event["metadata"]["resourceVersion"]))

    async def wait_for_events(self, name: str, reason: str, count: int = 1) -> list[Object]:
        """The Events of a job with that reason, once there are exactly `count`."""

        async def check() -> list[Object]:
            events = [event for event in await self.events(name) if event["reason"] == reason]
            assert len(events) == count
            return events

        return await eventually(check)

    # --- Pods ---

    async def pods(self, job: str = "", role: str = "") -> list[Object]:
        """Pods by name: all, or those of a job or a role."""
        labels = {names.LABEL_JOB: job, names.LABEL_ROLE: role}
        selector = ",".join(f"{key}={value}" for key, value in labels.items() if value)
        listed = self.client.list_all(self.path("pods"), label_selector=selector)
        return sorted([pod async for pod in listed], key=lambda pod: str(pod["metadata"]["name"]))

    async def pod(self, name: str) -> Object:
        """A pod."""
        return await self.client.get(self.path("pods", name))

    async def wait_for_pods(self, job: str, *suffixes: str) -> list[Object]:
        """The job's pods once they are exactly those of these names (JOB-SUFFIX), all running."""
        expected = sorted(f"{job}-{suffix}" for suffix in suffixes)

        async def check() -> list[Object]:
            pods = await self.pods(job)
            assert [p["metadata"]["name"] for p in pods] == expected
            assert [p["status"]["phase"] for p in pods] == ["Running"] * len(expected)
            assert not [p for p in pods if "deletionTimestamp" in p["metadata"]]
            return pods

        return await eventually(check)


def phase(job: Object) -> str:
    """The job's phase; empty before the first status."""
    return str(job.get("status", {}).get("phase", ""))


def condition(job: Object, type_: str) -> Object:
    """The condition of that type; empty strings when there is none."""
    conditions = job.get("status", {}).get("conditions", [])
    absent = {"status": "", "reason": "", "message": ""}
    return next((c for c in conditions if c["type"] == type_), absent)


def scaling(job: Object) -> Object:
    """The job's `status.scaling`; empty before the first decision."""
    status: Object = job.get("status", {}).get("scaling", {})
    return status


def training(job: Object) -> Object:
    """The job's `status.training`; its step is 0 before the first report."""
    status: Object = job.get("status", {}).get("training", {})
    return {"step": 0, **status}


def workers(*indices: int, attempt: int = 1) -> list[str]:
    """The suffixes of workers' pods, after the job's name."""
    return [f"worker-{index}-{attempt}" for index in indices]
