"""Jobs that began under another name of the Service, or with one of their own, finish under it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_operator_service import endpoints_of, services_of
from tests.support.kubelet import Kubelet
from tests.support.manifests import Object
from tests.support.process import OperatorProcess
from tests.support.testbed import Testbed, condition, workers
from tests.support.waiting import eventually
from tools.localcluster import Cluster
from trainyard.cluster.client import KubeClient
from trainyard_trainer.contract.exits import Exit

pytestmark = pytest.mark.integration

OWN_SERVICE = "digits-coordinator"


def coordinator_of(worker: Object) -> str:
    """The host of the coordinator in a worker's environment."""
    [container] = worker["spec"]["containers"]
    [address] = [e["value"] for e in container["env"] if e["name"] == "TRAINYARD_COORDINATOR"]
    return str(address).rpartition(":")[0]


async def begin_with_own_service(testbed: Testbed, job: Object) -> None:
    """Make a running job's pods and Service anew as an operator of an earlier release made them."""
    meta, owner = job["metadata"], {"controller": True, "blockOwnerDeletion": True}
    owner |= {"apiVersion": job["apiVersion"], "kind": job["kind"]}
    owner |= {"name": meta["name"], "uid": meta["uid"]}
    labels = {
        "app.kubernetes.io/managed-by": "trainyard",
        "trainyard.dev/kind": job["kind"],
        "trainyard.dev/job": meta["name"],
    }
    service = {
        "metadata": {"name": OWN_SERVICE, "labels": labels, "ownerReferences": [owner]},
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {**labels, "trainyard.dev/role": "coordinator"},
            "ports": [{"name": "https", "port": 7430}],
        },
    }
    pods = await testbed.pods(meta["name"])
    await testbed.client.request("DELETE", testbed.path("pods"), body={"gracePeriodSeconds": 0})
    await eventually(lambda: _has_no_pods(testbed))
    await testbed.client.delete(f"{testbed.path('services')}/trainyard")
    await testbed.client.create(testbed.path("services"), service)
    for pod in pods:
        await testbed.client.create(testbed.path("pods"), _as_earlier(pod, testbed.namespace))


def _as_earlier(pod: Object, namespace: str) -> Object:
    kept = {field: pod["metadata"][field] for field in ("name", "labels", "ownerReferences")}
    spec: dict[str, Any] = dict(pod["spec"])
    for field in ("hostname", "subdomain", "nodeName"):
        spec.pop(field, None)
    [container] = spec["containers"]
    for entry in container["env"]:
        if entry["name"] == "TRAINYARD_COORDINATOR":
            entry["value"] = f"{OWN_SERVICE}.{namespace}.svc.cluster.local:7430"
    return {"apiVersion": "v1", "kind": "Pod", "metadata": kept, "spec": spec}


async def run_with_own_service(testbed: Testbed, operator: OperatorProcess) -> None:
    """Have the job `digits` run as under an earlier release, whose operator has ended."""
    await testbed.add_nodes(8, is_attended=False)
    await operator.start_until_ready()
    await testbed.submit("digits", 2)
    job = await testbed.wait_for_phase("digits", "Running")
    operator.kill()
    await begin_with_own_service(testbed, job)
    await testbed.wait_for_pods("digits", "coordinator-1", *workers(0, 1))


async def _has_no_pods(testbed: Testbed) -> None:
    assert await testbed.pods() == []


async def test_a_job_with_a_service_of_its_own_finishes_under_it(
    testbed: Testbed, kubelet: Kubelet, kube: KubeClient, restartable: OperatorProcess
) -> None:
    await run_with_own_service(testbed, restartable)
    await restartable.start_until_ready()

    await kubelet.fail(await testbed.pod("digits-coordinator-1"), "disk full", Exit.INTERNAL)
    await testbed.wait_for_pods("digits", "coordinator-2", *workers(0, 1))
    replacement = await testbed.pod("digits-coordinator-2")
    assert not {"hostname", "subdomain"} & replacement["spec"].keys()

    async def is_served() -> None:
        served = await endpoints_of(testbed, OWN_SERVICE)
        assert served == {"": [replacement["status"]["podIP"]]}

    await eventually(is_served)
    await kubelet.fail(await testbed.pod("digits-worker-1-1"), "unlucky")
    await testbed.wait_for_pods("digits", "coordinator-2", "worker-0-1", "worker-1-2")
    worker = await testbed.pod("digits-worker-1-2")
    assert "subdomain" not in worker["spec"]
    assert coordinator_of(worker) == f"{OWN_SERVICE}.{testbed.namespace}.svc.cluster.local"
    assert await services_of(testbed) == [OWN_SERVICE], "its own serves; it needs no other"

    await testbed.submit("later", 1)
    await testbed.wait_for_phase("later", "Running")
    assert sorted(await services_of(testbed)) == [OWN_SERVICE, "trainyard"]
    await testbed.delete("digits")

    async def is_gone() -> None:
        assert await services_of(testbed) == ["trainyard"]

    await eventually(is_gone)


async def test_a_job_whose_pods_have_all_ended_starts_again_under_the_namespaces_service(
    testbed: Testbed, kubelet: Kubelet, restartable: OperatorProcess
) -> None:
    await run_with_own_service(testbed, restartable)
    for pod in await testbed.pods("digits"):
        await kubelet.fail(pod, "power cut")
    await restartable.start_until_ready()
    pods = await testbed.wait_for_pods("digits", "coordinator-2", *workers(0, 1, attempt=2))
    assert {pod["spec"]["subdomain"] for pod in pods} == {"trainyard"}
    expected = f"digits-coordinator.trainyard.{testbed.namespace}.svc.cluster.local"
    assert {coordinator_of(worker) for worker in pods[1:]} == {expected}
    assert sorted(await services_of(testbed)) == [OWN_SERVICE, "trainyard"]


async def test_another_name_is_for_jobs_that_begin_under_it(
    testbed: Testbed,
    kubelet: Kubelet,
    restartable: OperatorProcess,
    api_cluster: Cluster,
    operator_namespace: str,
    tmp_path: Path,
) -> None:
    await testbed.add_nodes(8, is_attended=False)
    await restartable.start_until_ready()
    await testbed.submit("digits", 1)
    await testbed.wait_for_phase("digits", "Running")
    restartable.kill()
    options = ("--service-name", "coordinators")
    log = tmp_path / "renamed.log"
    renamed = OperatorProcess(api_cluster.kubeconfig, operator_namespace, log, *options)
    await renamed.start_until_ready()
    try:
        await kubelet.fail(await testbed.pod("digits-coordinator-1"), "disk full", Exit.INTERNAL)
        await testbed.wait_for_pods("digits", "coordinator-2", *workers(0))
        assert (await testbed.pod("digits-coordinator-2"))["spec"]["subdomain"] == "trainyard"
        await testbed.submit("later", 1)
        await testbed.wait_for_phase("later", "Running")
        [worker] = await testbed.pods("later", "worker")
        host = f"later-coordinator.coordinators.{testbed.namespace}.svc.cluster.local"
        assert coordinator_of(worker) == host
        assert sorted(await services_of(testbed)) == ["coordinators", "trainyard"]
        await eventually(lambda: _serves(testbed, "coordinators", "later-coordinator"))
        await eventually(lambda: _serves(testbed, "trainyard", "digits-coordinator"))
    finally:
        renamed.stop()


async def _serves(testbed: Testbed, service: str, hostname: str) -> None:
    served = await endpoints_of(testbed, service)
    assert len(served.get(hostname, [])) == 1


async def test_a_service_that_a_quota_refuses_shows_and_comes_when_it_may(
    testbed: Testbed, kube: KubeClient, restartable: OperatorProcess
) -> None:
    await testbed.add_nodes(8)
    quota = {"metadata": {"name": "none"}, "spec": {"hard": {"services": "0"}}}
    await kube.create(testbed.path("resourcequotas"), quota)

    async def in_force() -> None:
        found = await kube.get(f"{testbed.path('resourcequotas')}/none")
        assert found.get("status", {}).get("hard"), "the quota's controller has not seen it"

    await eventually(in_force)
    await restartable.start_until_ready()
    await testbed.submit("digits", 2)
    job = await testbed.wait_for(
        "digits", lambda job: condition(job, "Degraded")["status"] == "True"
    )
    degraded = condition(job, "Degraded")
    assert degraded["reason"] == "ChildRefused"
    assert "exceeded quota: none" in degraded["message"]
    await kube.delete(f"{testbed.path('resourcequotas')}/none")
    await testbed.wait_for_pods("digits", "coordinator-1", *workers(0, 1))
    job = await testbed.wait_for_phase("digits", "Running")
    assert condition(job, "Degraded")["status"] == "False"
    await testbed.wait_for_events("digits", "ChildRefused")
    assert len(await testbed.events("digits")) == 1
