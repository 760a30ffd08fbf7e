"""Pods that pose as the workers and the coordinator of other jobs."""

from __future__ import annotations

import asyncio
import random

from tests.hostile.actor import Actor
from tests.support import manifests
from tests.support.manifests import Object
from trainyard.api import names

MAX_PODS = 12


class Impostors(Actor):
    """Creates pods with the labels and the owner reference of jobs, its own and honest ones."""

    name = "impostors"
    gpus = (0,)

    async def act(self, rng: random.Random) -> None:
        """Create the pods, leave them for some seconds and delete them."""
        victim = await self.submit("victim", gpus=0)
        await self.testbed.wait_for_phase(victim, "Running")
        victims = [await self.testbed.get(victim)]
        for testbed in self.surroundings.honest:
            victims += await testbed.jobs()
        pods = [pod for job in victims for pod in _impostors(job, self.testbed.namespace)]
        paths = []
        by_name = {pod["metadata"]["name"]: pod for pod in pods}  # both teams use the same names
        for pod in rng.sample(list(by_name.values()), min(len(by_name), MAX_PODS)):
            created = await self.testbed.create("pods", pod)
            paths.append(self.testbed.path("pods", created["metadata"]["name"]))
        await asyncio.sleep(rng.uniform(3, 8))
        for path in paths:
            await self.client.delete(path, grace_seconds=0)
        await self.clear()


def _impostors(job: Object, pool: str) -> list[Object]:
    """A later coordinator and a further worker of the job, and workers with odd labels."""
    name = job["metadata"]["name"]
    return [
        _pod(job, pool, names.coordinator_name(name, 7), role="coordinator", attempt="7"),
        _pod(job, pool, names.worker_name(name, 9, 1), role="worker", index="9", attempt="1"),
        _pod(job, pool, f"{name}-odd", role="worker", index="0x1", attempt="99999999999999999999"),
        _pod(job, pool, f"{name}-odder", role="party", party="a", attempt=""),
    ]


def _pod(job: Object, pool: str, name: str, **labels: str) -> Object:
    meta = job["metadata"]
    owner = {"apiVersion": job["apiVersion"], "kind": job["kind"], "controller": True}
    owner |= {"name": meta["name"], "uid": meta["uid"]}
    pod = manifests.foreign_pod(name, pool, 0)
    pod["metadata"]["ownerReferences"] = [owner]
    pod["metadata"]["labels"] = {
        names.LABEL_MANAGED_BY: names.MANAGER,
        names.LABEL_KIND: job["kind"],
        names.LABEL_JOB: meta["name"],
        **{f"{names.GROUP}/{label}": value for label, value in labels.items()},
    }
    return pod
