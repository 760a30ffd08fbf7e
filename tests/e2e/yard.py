"""A namespace of one test on the real cluster: jobs go in, and conditions are waited for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.demo.stage import SYSTEM
from tests.support.waiting import eventually
from tools.localcluster import Cluster
from trainyard.api import names
from trainyard.api.jobs import parse_job
from trainyard.api.names import service_name
from trainyard.api.pods import Pod, parse_pod
from trainyard.cluster.authorities import Authorities
from trainyard.cluster.client import ApiError, KubeClient, collection
from trainyard.cluster.execute import execute
from trainyard.cluster.portforward import forward
from trainyard_trainer.contract.env import COORDINATOR_PORT, PATH_METRICS

Object = dict[str, Any]

POLL_SECONDS = 0.5
TASKS = Path(__file__).with_name("tasks")


@dataclass(frozen=True, slots=True)
class Yard:
    """What a test works with."""

    cluster: Cluster
    client: KubeClient
    namespace: str
    kinds: dict[str, str] = field(default_factory=dict)
    """The kind of each job that was submitted, by its name."""

    def path(self, plural: str, name: str = "") -> str:
        """The path of a core collection, or of one object in it."""
        root = collection("v1", plural, self.namespace)
        return f"{root}/{name}" if name else root

    def job_path(self, name: str) -> str:
        """The path of a job."""
        plural = names.PLURALS[self.kinds[name]]
        return f"{collection(names.API_VERSION, plural, self.namespace)}/{name}"

    async def submit(self, manifest: Object) -> Object:
        """Create a job."""
        name = manifest["metadata"]["name"]
        self.kinds[name] = manifest["kind"]
        return await self.client.create(self.job_path(name).rpartition("/")[0], manifest)

    async def create(self, plural: str, manifest: Object) -> Object:
        """Create a core object."""
        return await self.client.create(self.path(plural), manifest)

    async def provide_code(self, file: str) -> Object:
        """Put a module of `tasks` on a ConfigMap; the template that lets pods import it."""
        text = (TASKS / file).read_text()
        await self.create(
            "configmaps",
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "code"},
                "data": {file: text},
            },
        )
        return {
            "env": [{"name": "PYTHONPATH", "value": "/opt/code"}],
            "volumes": [{"name": "code", "configMap": {"name": "code"}}],
            "volumeMounts": [{"name": "code", "mountPath": "/opt/code", "readOnly": True}],
        }

    async def patch(self, name: str, body: Object) -> Object:
        """Merge a change into a job."""
        return await self.client.request(
            "PATCH",
            self.job_path(name),
            body=body,
            content_type="application/merge-patch+json",
        )

    async def scale(self, name: str, replicas: int) -> None:
        """What `kubectl scale dj/NAME --replicas N` does."""
        path = f"{self.job_path(name)}/scale"
        await self.client.request(
            "PATCH",
            path,
            body={"spec": {"replicas": replicas}},
            content_type="application/merge-patch+json",
        )

    async def job(self, name: str) -> Object:
        """The job as it stands."""
        return await self.client.get(self.job_path(name))

    async def wait(
        self, name: str, what: str, holds: Callable[[Object], bool], seconds: float = 180
    ) -> Object:
        """The job once `holds`; fails at once when the job fails without being expected to."""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    job = await self.job(name)
                    if holds(job):
                        return job
                    self._refuse_failure(job, what)
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            raise AssertionError(
                f"{name}: not within {seconds:g} s: {what}\n{await self.story(name)}"
            ) from None

    async def complete(self, name: str, seconds: float = 240) -> Object:
        """The job once it is complete."""
        return await self.wait(name, "complete", lambda j: phase(j) == "Complete", seconds)

    async def pods(self, name: str, role: str = "worker") -> list[Pod]:
        """The job's pods of one role, by index or party."""
        selector = f"{names.LABEL_JOB}={name},{names.LABEL_ROLE}={role}"
        listed = self.client.list_all(self.path("pods"), label_selector=selector)
        return sorted(
            [parse_pod(raw) async for raw in listed], key=lambda p: (p.index, p.party, p.attempt)
        )

    async def kill(self, pod: Pod) -> None:
        """End a pod at once, without any grace, as a lost node would."""
        await self.client.delete(self.path("pods", pod.name), uid=pod.uid, grace_seconds=0)

    async def process(self, pod: Pod) -> tuple[int, str, str]:
        """Restarts of the pod's container, and number and start time of its first process."""
        raw = await self.client.get(self.path("pods", pod.name))
        chunks = execute(self.client, pod.namespace, pod.name, "trainer", ["cat", "/proc/1/stat"])
        stat = b"".join([chunk async for chunk in chunks]).decode().rpartition(")")[2].split()
        restarts = raw["status"]["containerStatuses"][0]["restartCount"]
        return restarts, pod.uid, stat[19]

    async def metrics(self, name: str) -> dict[str, float]:
        """The figures without labels that the job's coordinator serves, read by the operator's
        own way in: an own certificate, through a port-forward."""
        job = parse_job(await self.job(name))
        coordinator = [p for p in await self.pods(name, "coordinator") if p.is_running][-1]
        authorities = Authorities(self.client, SYSTEM)
        tls = await authorities.operator_context(job.key, job.uid, datetime.now(UTC))
        assert tls is not None
        server_name = f"{service_name(name)}.{self.namespace}.svc.cluster.local"
        async with (
            forward(self.client, self.namespace, coordinator.name, COORDINATOR_PORT) as port,
            aiohttp.ClientSession() as session,
            session.get(
                f"https://127.0.0.1:{port}{PATH_METRICS}", ssl=tls, server_hostname=server_name
            ) as answer,
        ):
            text = await answer.text()
            families = text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
            return {s.name: s.value for f in families for s in f.samples if not s.labels}

    async def events(self, name: str) -> list[tuple[str, str]]:
        """Reason and message of each of the job's Events."""
        listed = self.client.list_all(
            self.path("events"), field_selector=f"involvedObject.name={name}"
        )
        return [(e["reason"], e["message"]) async for e in listed]

    async def until_event(self, name: str, reason: str) -> str:
        """The message of the job's Event for that reason; Events follow their status."""

        async def told() -> str:
            found = [message for why, message in await self.events(name) if why == reason]
            assert found, f"{name}: no Event {reason}"
            return found[0]

        return await eventually(told)

    async def story(self, name: str) -> str:
        """All that helps to see why something did not happen."""
        job = await self.job(name)
        lines = [json.dumps(job.get("status"), indent=1)]
        for role in ("coordinator", "worker", "party"):
            for pod in await self.pods(name, role):
                lines.append(f"--- {pod.name}: {pod.phase} {pod.reason} {pod.waiting_message}")
                lines.append(await self.log(pod))
        lines += [f"event {reason}: {message}" for reason, message in await self.events(name)]
        return "\n".join(lines)

    async def log(self, pod: Pod) -> str:
        """The last lines of the pod's log."""
        url = self.client.url(f"{self.path('pods', pod.name)}/log?tailLines=40")
        try:
            async with self.client.session.get(url, headers=await self.client.headers()) as answer:
                return await answer.text()
        except (ApiError, OSError) as error:
            return f"(no log: {error})"

    def _refuse_failure(self, job: Object, what: str) -> None:
        if phase(job) == "Failed" and "fail" not in what:
            raise AssertionError(f"{job['metadata']['name']} failed: {job['status']['conditions']}")


def phase(job: Object) -> str:
    """The job's phase; empty while it has none."""
    return str((job.get("status") or {}).get("phase", ""))


def training(job: Object) -> Object:
    """`status.training`, empty while there is none."""
    return (job.get("status") or {}).get("training") or {}


def scaling(job: Object) -> Object:
    """`status.scaling`, empty while there is none."""
    return (job.get("status") or {}).get("scaling") or {}


def condition(job: Object, type_: str) -> Object:
    """One condition, empty while there is none."""
    conditions = (job.get("status") or {}).get("conditions") or []
    return next((c for c in conditions if c["type"] == type_), {})


def party(job: Object, name: str) -> Object:
    """What the status says of one party, empty while it says nothing."""
    parties = (job.get("status") or {}).get("parties") or []
    return next((p for p in parties if p["name"] == name), {})


def trains_on(workers: int) -> Callable[[Object], bool]:
    """Whether so many workers have trained together, as the coordinator itself reports."""
    return lambda job: (
        training(job).get("workers") == workers
        and training(job).get("step", 0) > 0
        and phase(job) == "Running"
    )
