"""Which pods must not train on the CPU: those that request GPUs which are not simulated."""

from __future__ import annotations

import pytest

from tests.support.dependencies import dependencies_of
from tests.support.fakeapi import FakeApi, Object
from tests.support.federations import make_federation
from tests.support.jobs import NETWORK, at, make_job
from trainyard.api.cluster import Node
from trainyard.api.jobs import Job
from trainyard.api.names import LABEL_SIMULATED_GPUS
from trainyard.lifecycle.diff import PodToCreate
from trainyard.reconcile.children import create_pod
from trainyard_trainer.contract.env import DEVICE_REQUIRED, ENV_DEVICE, Role

GPU = "nvidia.com/gpu"
SIMULATED = Node(name="simulated", allocatable={GPU: 8}, labels={LABEL_SIMULATED_GPUS: "true"})
REAL = Node(name="real", allocatable={GPU: 8}, labels={"site": "bob"})


class Server(FakeApi):
    """Completes the pods that are created."""

    async def create(self, path: str, body: Object) -> Object:
        made = await super().create(path, body)
        meta = {"uid": "u", "resourceVersion": "9", "creationTimestamp": at()}
        made["metadata"] = {**meta, **made["metadata"]}
        return made


async def device_of(job: Job, pod: PodToCreate, *nodes: Node) -> str | None:
    """What a new pod's environment says of its device."""
    api = Server()
    deps = dependencies_of(api, job)
    for node in nodes:
        deps.cache.nodes.put(node)
    await create_pod(deps, job, pod, NETWORK)
    [created] = [body for body in api.objects.values() if body["kind"] == "Pod"]
    env = {e["name"]: e.get("value") for e in created["spec"]["containers"][0]["env"]}
    return env.get(ENV_DEVICE)


@pytest.mark.parametrize(
    ("gpus", "nodes", "expected"),
    [
        pytest.param(1, (REAL,), DEVICE_REQUIRED, id="a GPU"),
        pytest.param(1, (), DEVICE_REQUIRED, id="a GPU of a node to come"),
        pytest.param(1, (SIMULATED,), None, id="a simulated GPU"),
        pytest.param(0, (REAL,), None, id="no GPU"),
    ],
)
async def test_a_worker_needs_the_device_that_it_requests(
    gpus: int, nodes: tuple[Node, ...], expected: str | None
) -> None:
    pod = PodToCreate(role=Role.WORKER, member=0, attempt=1)
    assert await device_of(make_job({"workers": {"gpus": gpus}}), pod, *nodes) == expected


@pytest.mark.parametrize(("name", "expected"), [("ann", None), ("bob", DEVICE_REQUIRED)])
async def test_a_party_needs_the_device_of_its_own_site(name: str, expected: str | None) -> None:
    parties = [
        {"name": "ann", "gpus": 1, "nodeSelector": {LABEL_SIMULATED_GPUS: "true"}},
        {"name": "bob", "gpus": 1, "nodeSelector": {"site": "bob"}},
    ]
    pod = PodToCreate(role=Role.PARTY, member=name, attempt=1)
    job = make_federation({"parties": parties})
    assert await device_of(job, pod, SIMULATED, REAL) == expected


async def test_a_coordinator_needs_no_device() -> None:
    pod = PodToCreate(role=Role.COORDINATOR, member=0, attempt=1)
    assert await device_of(make_job(), pod, REAL) is None
