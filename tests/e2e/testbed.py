"""The namespace of one test on the real cluster, with pods that train."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.demo.environment import SYSTEM
from tests.support import testbed
from tests.support.manifests import Object
from tests.support.testbed import phase
from tests.support.waiting import eventually
from trainyard.api.jobs import parse_job
from trainyard.api.pods import Pod, parse_pod
from trainyard.cluster.authorities import Authorities
from trainyard.cluster.coordinator import address_of
from trainyard.cluster.errors import ApiError
from trainyard.cluster.execute import execute
from trainyard.cluster.portforward import forward
from trainyard_trainer.contract.env import COORDINATOR_PORT, PATH_METRICS, Role

TASKS = Path(__file__).with_name("tasks")


class Testbed(testbed.Testbed):
    """A namespace whose pods have processes, logs and metrics."""

    timeout_seconds = 180.0
    poll_seconds = 0.5

    async def close(self) -> None:
        """Delete the namespace and its contents; pods end gracefully."""
        await self.client.delete(f"/api/v1/namespaces/{self.namespace}")

    # --- Jobs ---

    async def provide_code(self, file: str) -> Object:
        """Put a module of `tasks` on a ConfigMap; returns the pod template that imports it."""
        text = (TASKS / file).read_text()
        await self.create("configmaps", {"metadata": {"name": "code"}, "data": {file: text}})
        return {
            "env": [{"name": "PYTHONPATH", "value": "/opt/code"}],
            "volumes": [{"name": "code", "configMap": {"name": "code"}}],
            "volumeMounts": [{"name": "code", "mountPath": "/opt/code", "readOnly": True}],
        }

    async def wait_for(
        self,
        name: str,
        predicate: Callable[[Object], bool],
        description: str = "as expected",
        seconds: float | None = None,
    ) -> Object:
        """The job once the predicate is true of it; fails at once when the job fails instead."""

        def accepts(job: Object) -> bool:
            if predicate(job):
                return True
            if phase(job) == "Failed":
                pytest.fail(f"{name} failed: {job['status']['conditions']}")
            return False

        return await super().wait_for(name, accepts, description, seconds)

    async def wait_for_completion(self, name: str, seconds: float = 240) -> Object:
        """The job once it is complete."""
        return await self.wait_for_phase(name, "Complete", seconds=seconds)

    async def wait_for_event(self, name: str, reason: str) -> str:
        """The message of the job's first Event with that reason."""

        async def check() -> str:
            messages = [e["message"] for e in await self.events(name) if e["reason"] == reason]
            assert messages, f"{name}: no Event {reason}"
            return str(messages[0])

        return await eventually(check)

    async def metrics(self, name: str) -> dict[str, float]:
        """The metrics without labels of the job's coordinator, read as the operator reads them.

        That is with the operator's certificate, through a port-forward.
        """
        job = parse_job(await self.get(name))
        pods = await self.job_pods(name, Role.COORDINATOR)
        coordinator = [pod for pod in pods if pod.is_running][-1]
        authorities = Authorities(self.client, SYSTEM)
        tls = await authorities.operator_context(job.key, job.uid, datetime.now(UTC))
        assert tls is not None
        server_name = address_of(job.key, coordinator, "cluster.local").server_name
        async with (
            forward(self.client, self.namespace, coordinator.name, COORDINATOR_PORT) as port,
            aiohttp.ClientSession() as session,
            session.get(
                f"https://127.0.0.1:{port}{PATH_METRICS}", ssl=tls, server_hostname=server_name
            ) as response,
        ):
            text = await response.text()
            families = text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
            return {s.name: s.value for f in families for s in f.samples if not s.labels}

    async def describe(self, name: str) -> str:
        """What a failed wait shows of a job: its status, its pods with their logs, its Events."""
        lines = [await super().describe(name)]
        for role in (Role.COORDINATOR, Role.WORKER, Role.PARTY):
            for pod in await self.job_pods(name, role):
                lines.append(f"--- {pod.name}: {pod.phase} {pod.reason} {pod.waiting_message}")
                lines.append(await self.logs(pod))
        lines += [f"event {e['reason']}: {e['message']}" for e in await self.events(name)]
        return "\n".join(lines)

    # --- Pods ---

    async def job_pods(self, job: str, role: str = Role.WORKER) -> list[Pod]:
        """The job's pods of one role as the operator parses them, by index or party."""
        pods = [parse_pod(raw) for raw in await self.pods(job, role)]
        return sorted(pods, key=lambda pod: (pod.index, pod.party, pod.attempt))

    async def kill(self, pod: Pod) -> None:
        """Delete a pod without a grace period, as the loss of its node does."""
        await self.client.delete(self.path("pods", pod.name), uid=pod.uid, grace_seconds=0)

    async def execute(self, pod: Pod, *command: str) -> str:
        """The output of a command in the trainer's container."""
        chunks = execute(self.client, pod.namespace, pod.name, "trainer", list(command))
        return b"".join([chunk async for chunk in chunks]).decode()

    async def process(self, pod: Pod) -> tuple[int, str, str]:
        """The restart count of the container, the pod's uid and the start time of its process 1."""
        raw = await self.pod(pod.name)
        fields = (await self.execute(pod, "cat", "/proc/1/stat")).rpartition(")")[2].split()
        restarts = raw["status"]["containerStatuses"][0]["restartCount"]
        return restarts, pod.uid, fields[19]

    async def logs(self, pod: Pod) -> str:
        """The last lines of the pod's log."""
        url = self.client.url(f"{self.path('pods', pod.name)}/log?tailLines=40")
        headers = await self.client.headers()
        try:
            async with self.client.session.get(url, headers=headers) as response:
                return await response.text()
        except (ApiError, OSError) as error:
            return f"(no log: {error})"


def training(job: Object) -> Object:
    """The job's `status.training`; empty before the first report."""
    status: Object = job.get("status", {}).get("training", {})
    return status


def party(job: Object, name: str) -> Object:
    """The entry of one party in `status.parties`; empty when there is none."""
    parties = job.get("status", {}).get("parties", [])
    return next((p for p in parties if p["name"] == name), {})


def trains_on(workers: int) -> Callable[[Object], bool]:
    """A predicate: the coordinator reports steps of exactly so many workers."""
    return lambda job: (
        training(job).get("workers") == workers
        and training(job).get("step", 0) > 0
        and phase(job) == "Running"
    )
