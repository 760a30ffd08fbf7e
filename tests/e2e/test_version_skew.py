"""Version skew: operators and trainers of two versions, one with more optional fields.

Jobs survive an upgrade of the operator and its rollback, so every operator must scale jobs of
either version.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.demo.environment import install
from tests.e2e import next_version
from tests.e2e.conftest import RELEASE_SETTINGS, digits, hospitals
from tests.e2e.testbed import Testbed, party, training, trains_on
from tests.support.manifests import Object
from tests.support.waiting import eventually
from tools.localcluster import Cluster
from trainyard.api.pods import Pod
from trainyard_trainer.contract.env import ENV_CONFIG
from trainyard_trainer.contract.metrics import Metric

VERSION = "0.1.0"
NEXT_VERSION = VERSION + next_version.SUFFIX
PARTIES = ("a", "b", "c", "d")
TASK = {"entrypoint": "paced:Paced"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """The operations on jobs of one kind."""

    manifest: Callable[[str, str, Object], Object]
    """The manifest for a name, an image and a pod template; the job starts with one member."""
    scale: Callable[[Testbed, str, int], Awaitable[object]]
    has_scaled: Callable[[int], Callable[[Object], bool]]
    progress: Callable[[Object], int]
    role: str
    sizes: tuple[int, int, int]
    """The numbers of members to which the operators scale the job one after the other."""


def _distributed(name: str, image: str, template: Object) -> Object:
    epochs, workers = {"epochs": 1_000_000}, {"template": template}
    return digits(name, task=TASK, image=image, workers=workers, training=epochs)


def _federated(name: str, image: str, template: Object) -> Object:
    rounds = {"max": 1_000_000, "minParties": 1, "deadline": "20s"}
    spec = {"task": TASK, "image": image, "template": template, "rounds": rounds}
    return hospitals(name, **spec, parties=_parties(1), training={"batchSize": 256})


def _parties(count: int) -> list[Object]:
    share = {"requests": {"cpu": "50m"}, "limits": {"cpu": "1", "memory": "2Gi"}}
    return [{"name": name, "resources": share} for name in PARTIES[:count]]


async def _add_parties(testbed: Testbed, name: str, count: int) -> None:
    await testbed.update_spec(name, parties=_parties(count))


def _all_contribute(count: int) -> Callable[[Object], bool]:
    return lambda job: all(party(job, name).get("rounds") for name in PARTIES[:count])


KINDS = {
    "DistributedJob": Kind(
        manifest=_distributed,
        scale=Testbed.scale,
        has_scaled=trains_on,
        progress=lambda job: int(training(job).get("step", 0)),
        role="worker",
        sizes=(2, 1, 2),
    ),
    "FederatedJob": Kind(
        manifest=_federated,
        scale=_add_parties,
        has_scaled=_all_contribute,
        progress=lambda job: int(training(job).get("round", 0)),
        role="party",
        sizes=(2, 3, 4),
    ),
}


@pytest.fixture(scope="module")
def next_images(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The images of the next version; restores the release at the end."""
    next_version.load_images(cluster, tmp_path_factory.mktemp("next"))
    yield
    install(cluster, *RELEASE_SETTINGS)


async def upgrade_operator(cluster: Cluster, version: str) -> None:
    """Upgrade the operator to a version, or roll it back."""
    settings = (*RELEASE_SETTINGS, f"image.tag={version}", "replicas=1")
    await asyncio.to_thread(install, cluster, *settings)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
async def test_operators_of_both_versions_scale_jobs_of_both(
    cluster: Cluster, next_images: None, testbed: Testbed, kind: Kind
) -> None:
    template = await testbed.provide_code("paced.py")
    trainers = {"this": _trainer(VERSION), "next": _trainer(NEXT_VERSION)}
    for name, image in trainers.items():
        await testbed.create_job(kind.manifest(name, image, template))
    await _wait_for_size(testbed, kind, this=1, next=1)
    await _scale(testbed, kind, this=kind.sizes[0], next=kind.sizes[0])
    assert await _hints(testbed, "next") == {next_version.CONFIG_HINT: 0, next_version.PLAN_HINT: 0}
    processes = await _processes(testbed, kind, "this", "next")

    await upgrade_operator(cluster, NEXT_VERSION)
    await testbed.create_job(kind.manifest("new", _trainer(VERSION), template))
    await _scale(testbed, kind, this=kind.sizes[1], next=kind.sizes[1])
    await _wait_for_size(testbed, kind, new=1)
    assert await _hints(testbed, "next") == {next_version.CONFIG_HINT: 0, next_version.PLAN_HINT: 1}
    [coordinator] = await testbed.job_pods("new", "coordinator")
    assert '"hint": "next"' in await _configuration(testbed, coordinator)
    await _scale(testbed, kind, new=2)
    processes |= await _processes(testbed, kind, "new")

    await upgrade_operator(cluster, VERSION)
    await _scale(testbed, kind, this=kind.sizes[2], next=kind.sizes[2], new=3)
    assert await _hints(testbed, "next") == {next_version.CONFIG_HINT: 0, next_version.PLAN_HINT: 0}
    assert await _processes(testbed, kind, "this", "next", "new") == processes


async def _scale(testbed: Testbed, kind: Kind, **sizes: int) -> None:
    """Scale jobs and wait until they train with so many members."""
    for name, size in sizes.items():
        await kind.scale(testbed, name, size)
    await _wait_for_size(testbed, kind, **sizes)


async def _wait_for_size(testbed: Testbed, kind: Kind, **sizes: int) -> None:
    await asyncio.gather(
        *(_wait_for_progress(testbed, kind, name, size) for name, size in sizes.items())
    )


async def _wait_for_progress(testbed: Testbed, kind: Kind, name: str, size: int) -> None:
    """Wait until a job trains with so many members and has the Plan of its status."""
    job = await testbed.wait_for(name, kind.has_scaled(size), f"{size} members train")
    progress = kind.progress(job)
    await testbed.wait_for(name, lambda job: kind.progress(job) > progress, "training continues")

    async def acknowledged() -> Object:
        metrics = await testbed.metrics(name)
        status: Object = (await testbed.get(name))["status"]
        assert metrics[Metric.PLAN_GENERATION] == status["planGeneration"]
        return status

    status = await eventually(acknowledged)
    assert status.get("restarts", 0) == 0
    assert "WireMismatch" not in {condition["reason"] for condition in status["conditions"]}


async def _hints(testbed: Testbed, name: str) -> dict[str, float]:
    """Whether a trainer of the next version has received the new fields."""
    metrics = await testbed.metrics(name)
    return {
        metric: metrics[metric] for metric in (next_version.CONFIG_HINT, next_version.PLAN_HINT)
    }


async def _processes(testbed: Testbed, kind: Kind, *jobs: str) -> dict[str, tuple[int, str, str]]:
    """The processes of each job's coordinator and first member."""
    pods = [
        (await testbed.job_pods(job, role))[0]
        for job in jobs
        for role in ("coordinator", kind.role)
    ]
    return {pod.name: await testbed.process(pod) for pod in pods}


async def _configuration(testbed: Testbed, coordinator: Pod) -> str:
    """The configuration in the coordinator's environment."""
    manifest = await testbed.client.get(testbed.path("pods", coordinator.name))
    [container] = manifest["spec"]["containers"]
    return str(next(e["value"] for e in container["env"] if e["name"] == ENV_CONFIG))


def _trainer(version: str) -> str:
    return f"trainyard-trainer:{version}"
