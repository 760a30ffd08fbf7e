"""The headless Service of a namespace, on a real API server: whose it is, what it serves."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.kubelet import Kubelet
from tests.support.manifests import Object
from tests.support.process import OperatorProcess
from tests.support.testbed import Testbed, condition, phase, workers
from tests.support.waiting import eventually
from trainyard.cluster.client import KubeClient

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("operator")]

JOBS = 12
FOREIGN: Object = {
    "metadata": {"name": "trainyard", "labels": {"app": "theirs"}},
    "spec": {"selector": {"app": "theirs"}, "ports": [{"name": "http", "port": 80}]},
}
PARTIES: list[Object] = [{"name": "ann"}, {"name": "bob"}]


async def services_of(testbed: Testbed) -> list[str]:
    """The names of the Services of the namespace."""
    return [s["metadata"]["name"] async for s in testbed.client.list_all(testbed.path("services"))]


async def endpoints_of(testbed: Testbed, service: str) -> dict[str, list[str]]:
    """The addresses that DNS serves under each hostname of the Service."""
    path = f"/apis/discovery.k8s.io/v1/namespaces/{testbed.namespace}/endpointslices"
    selector = f"kubernetes.io/service-name={service}"
    found: dict[str, list[str]] = {}
    async for item in testbed.client.list_all(path, label_selector=selector):
        for endpoint in item["endpoints"] or ():
            found.setdefault(endpoint.get("hostname", ""), []).extend(endpoint["addresses"])
    return found


async def test_jobs_of_both_kinds_share_one_service(testbed: Testbed) -> None:
    await testbed.add_nodes(16)
    names = [f"job-{number}" for number in range(JOBS)]
    await asyncio.gather(*(testbed.submit(name, 1) for name in names))
    await testbed.federate("heart", PARTIES, rounds={"minParties": 2})
    for name in names:
        await testbed.wait_for_phase(name, "Running")
    await testbed.wait_for_phase("heart", "Running")
    assert await services_of(testbed) == ["trainyard"]

    async def are_served() -> None:
        served = await endpoints_of(testbed, "trainyard")
        assert sorted(served) == sorted(f"{name}-coordinator" for name in (*names, "heart"))
        for name in (*names, "heart"):
            [pod] = await testbed.pods(name, "coordinator")
            assert served[f"{name}-coordinator"] == [pod["status"]["podIP"]]

    await eventually(are_served)
    await testbed.delete("heart")
    await eventually(lambda: _is_gone(testbed, "heart"))


async def test_a_coordinator_that_replaces_another_is_served_under_its_name(
    testbed: Testbed, kubelet: Kubelet
) -> None:
    await testbed.add_nodes(8, is_attended=False)
    await testbed.submit("digits", 2)
    await testbed.wait_for_phase("digits", "Running")
    await kubelet.fail(await testbed.pod("digits-coordinator-1"), "disk full")
    await testbed.wait_for_pods("digits", "coordinator-2", *workers(0, 1))
    replacement = await testbed.pod("digits-coordinator-2")
    assert replacement["spec"]["hostname"] == "digits-coordinator"

    async def is_served() -> None:
        served = await endpoints_of(testbed, "trainyard")
        assert served == {"digits-coordinator": [replacement["status"]["podIP"]]}

    await eventually(is_served)


async def test_a_service_of_somebody_else_is_not_touched_and_the_jobs_wait_for_its_end(
    testbed: Testbed, kube: KubeClient
) -> None:
    await testbed.add_nodes(8)
    foreign = await kube.create(testbed.path("services"), FOREIGN)
    await testbed.submit("digits", 2)
    await testbed.submit("other", 1)
    for name in ("digits", "other"):
        job = await testbed.wait_for(
            name, lambda job: condition(job, "Degraded")["status"] == "True"
        )
        degraded = condition(job, "Degraded")
        assert degraded["reason"] == "ChildRefused"
        assert (
            f"Service trainyard in namespace {testbed.namespace} is not of this"
            in degraded["message"]
        )
        assert "helm upgrade --set serviceName=NAME" in degraded["message"]
    assert await testbed.pods() == []
    assert await kube.get(f"{testbed.path('services')}/trainyard") == foreign
    await kube.delete(f"{testbed.path('services')}/trainyard")
    await testbed.wait_for_pods("digits", "coordinator-1", *workers(0, 1))
    for name in ("digits", "other"):
        job = await testbed.wait_for_phase(name, "Running")
        assert condition(job, "Degraded")["status"] == "False"
    assert await services_of(testbed) == ["trainyard"]


async def test_a_service_that_was_changed_shows_and_comes_back_when_it_is_deleted(
    testbed: Testbed, kube: KubeClient, operator: OperatorProcess
) -> None:
    """What runs is not disturbed, although new pods would not find their coordinator."""
    await testbed.add_nodes(8)
    await testbed.submit("running", 1)
    await testbed.wait_for_phase("running", "Running")
    before = await testbed.pods("running")
    service = f"{testbed.path('services')}/trainyard"
    ours = await kube.get(service)
    changed = await testbed.patch(service, {"spec": {"selector": {"app": "wrong"}}})
    operator.kill()
    operator.start()
    operator.wait_until_ready()
    job = await testbed.wait_for(
        "running", lambda job: condition(job, "Degraded")["status"] == "True"
    )
    assert "was changed (spec.selector)" in condition(job, "Degraded")["message"]
    assert phase(job) == "Running"
    assert await kube.get(service) == changed
    await kube.delete(service)
    await testbed.wait_for("running", lambda job: condition(job, "Degraded")["status"] == "False")
    assert (await kube.get(service))["spec"] == ours["spec"]
    uids = [pod["metadata"]["uid"] for pod in await testbed.pods("running")]
    assert uids == [pod["metadata"]["uid"] for pod in before]


async def _is_gone(testbed: Testbed, name: str) -> None:
    assert not await testbed.exists(testbed.job_path(name))
