"""The children of a job, its status and its Events."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support.manifests import Object
from tests.support.process import OperatorProcess
from tests.support.testbed import Testbed, condition, phase, scaling, workers
from tests.support.waiting import eventually
from tools.localcluster import Cluster
from tools.localcluster.commands import run
from trainyard.api.jobs import parse_job
from trainyard.cluster.authorities import Authorities
from trainyard.cluster.client import KubeClient
from trainyard.lifecycle.timeouts import Timeouts

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("operator")]

QUIET_SECONDS = 1.2 * Timeouts().messages_interval.total_seconds()
"""Longer than every delay of the operator, so that a write loop is detected."""


async def test_a_job_gets_its_children_and_nothing_else(
    testbed: Testbed, kube: KubeClient, operator_namespace: str
) -> None:
    await testbed.add_nodes(8)
    job = await testbed.submit("digits", 3)
    pods = await testbed.wait_for_pods("digits", "coordinator-1", *workers(0, 1, 2))
    owner = {
        "apiVersion": "trainyard.dev/v1alpha1",
        "kind": "DistributedJob",
        "name": "digits",
        "uid": job["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }
    secrets = (await kube.get(testbed.path("secrets")))["items"]
    services = (await kube.get(testbed.path("services")))["items"]
    assert [s["metadata"]["name"] for s in secrets] == ["digits-trainyard-tls"]
    assert sorted(secrets[0]["data"]) == [
        *("ca.crt", "coordinator.crt", "coordinator.key", "worker.crt", "worker.key")
    ]
    assert [s["metadata"]["name"] for s in services] == ["trainyard"]
    assert services[0]["spec"]["clusterIP"] == "None"
    assert "ownerReferences" not in services[0]["metadata"]
    for child in (*pods, *secrets):
        assert child["metadata"]["ownerReferences"] == [owner]
    own = (await kube.get(f"/api/v1/namespaces/{operator_namespace}/secrets"))["items"]
    assert [s["metadata"]["name"] for s in own] == ["trainyard-master"]
    authorities = Authorities(kube, operator_namespace)
    key, uid = parse_job(job).key, job["metadata"]["uid"]
    derived = await authorities.of_job(key, uid, datetime.now(UTC))
    assert base64.b64decode(secrets[0]["data"]["ca.crt"]) == derived.bundle
    assert b"PRIVATE KEY" not in b"".join(
        base64.b64decode(secrets[0]["data"][name]) for name in ("ca.crt", "worker.crt")
    )


async def test_a_running_job_has_a_full_status(testbed: Testbed, api_cluster: Cluster) -> None:
    await testbed.add_nodes(8)
    await testbed.submit("digits", 2)
    job = await testbed.wait_for_phase("digits", "Running")
    status = job["status"]
    conditions = {c["type"]: (c["status"], c["reason"]) for c in status["conditions"]}
    assert conditions == {
        "Accepted": ("True", "Valid"),
        "Admitted": ("True", "Admitted"),
        "Running": ("True", "WorkersRunning"),
        "Rescaling": ("False", "Steady"),
        "Suspended": ("False", "NotRequested"),
        "StateDurable": ("False", "NoClaim"),
        "CoordinatorReachable": ("Unknown", "Connecting"),
        "Degraded": ("False", "Healthy"),
    }
    assert {c["observedGeneration"] for c in status["conditions"]} == {1}
    assert (status["observedGeneration"], status["replicas"], status["term"]) == (1, 2, 1)
    assert status["selector"] == "trainyard.dev/job=digits,trainyard.dev/role=worker"
    assert (scaling(job)["desired"], scaling(job)["current"]) == (2, 2)
    assert not {"restarts", "failures"} & status.keys()
    kubectl: list[str | Path] = [api_cluster.kubectl, "--kubeconfig", api_cluster.kubeconfig]
    kubectl += ["--namespace", testbed.namespace]
    header, row = run([*kubectl, "get", "dj", "digits"]).splitlines()
    columns = dict(zip(header.split(), row.split(), strict=False))
    assert [columns[c] for c in ("NAME", "PHASE", "WORKERS", "DESIRED")] == [
        *("digits", "Running", "2", "2")
    ]
    selected = run([*kubectl, "get", "pods", "-l", status["selector"], "-o", "name"])
    assert selected.split() == ["pod/digits-worker-0-1", "pod/digits-worker-1-1"]
    run([*kubectl, "wait", "dj/digits", "--for=condition=Running", "--timeout=5s"])


async def test_a_settled_job_is_not_written(testbed: Testbed) -> None:
    await testbed.add_nodes(8)
    await testbed.submit("running", 2)
    await testbed.submit("waiting", 20)
    await testbed.wait_for_phase("running", "Running")
    await testbed.wait_for_phase("waiting", "Waiting")
    await testbed.wait_until_settled("running")
    await testbed.wait_until_unchanged(QUIET_SECONDS)


async def test_a_normal_start_creates_no_event(testbed: Testbed) -> None:
    await testbed.add_nodes(8)
    await testbed.submit("first", 2)
    # The operator has then observed that the node is ready.
    await testbed.wait_for_phase("first", "Running")
    await testbed.submit("digits", 2)
    await testbed.wait_for_phase("digits", "Running")
    assert await testbed.events("digits") == []


UNSUPPORTED: dict[str, dict[str, Any]] = {
    "sync.algorithm": {"sync": {"algorithm": "LocalSGD", "interval": 4}},
    "sync.interval": {"sync": {"algorithm": "DiLoCo", "interval": 4}},
    "sync.compression": {"sync": {"compression": "FP16"}},
    "training.precision": {"training": {"precision": "BF16"}},
    "training.maxBatchSize": {"training": {"maxBatchSize": 4096}},
    "scaling.policy": {"policy": "Goodput"},
    "adjustments": {"adjustments": {"BatchSize": {"enabled": True}}},
    "candidates": {
        "candidates": [{"name": "a"}, {"name": "b", "training": {"batchSize": 64}}],
        "selection": {"metric": "eval/accuracy"},
    },
    "failure.retry": {"failure": {"retry": "Discard"}},
    "failure.rules": {
        "failure": {"rules": [{"when": {"exitCodes": [2]}, "action": "FailJob"}]},
    },
    "failure.replaceStragglers": {"failure": {"replaceStragglers": True}},
}


async def test_unsupported_fields_are_rejected_by_name(testbed: Testbed, kube: KubeClient) -> None:
    await testbed.add_nodes(8)
    names = {field: field.lower().replace(".", "-") for field in UNSUPPORTED}
    for field, spec in UNSUPPORTED.items():
        await testbed.submit(names[field], 1, **spec)
    for field, name in names.items():
        job = await testbed.wait_for(
            name, lambda job: condition(job, "Accepted")["status"] == "False"
        )
        accepted = condition(job, "Accepted")
        assert accepted["reason"] == "NotSupportedYet"
        assert f"spec.{field} (" in accepted["message"]
        assert phase(job) == "Pending"
    assert await testbed.pods() == []
    assert (await kube.get(testbed.path("secrets")))["items"] == []
    [event] = await testbed.wait_for_events(names["scaling.policy"], "NotSupportedYet")
    assert event["type"] == "Warning"


async def test_workers_allowed_is_rejected_by_name(testbed: Testbed) -> None:
    manifest = testbed.job_manifest("allowed", 2, maximum=4, minimum=1)
    manifest["spec"]["workers"]["allowed"] = [1, 2, 4]
    await testbed.create_job(manifest)
    job = await testbed.wait_for("allowed", lambda job: condition(job, "Accepted")["status"])
    assert "spec.workers.allowed (use min and max)" in condition(job, "Accepted")["message"]


async def test_a_job_managed_by_another_controller_is_ignored(testbed: Testbed) -> None:
    await testbed.add_nodes(8)
    await testbed.submit("theirs", 1, managedBy="kueue.x-k8s.io/multikueue")
    await testbed.submit("ours", 1, managedBy="trainyard.dev/operator")
    await testbed.wait_for_phase("ours", "Running")
    assert "status" not in await testbed.get("theirs")
    assert await testbed.pods("theirs") == []


async def test_the_priority_class_is_written_on_the_pods(
    testbed: Testbed, kube: KubeClient
) -> None:
    classes = "/apis/scheduling.k8s.io/v1/priorityclasses"
    await kube.create(classes, {"metadata": {"name": testbed.namespace}, "value": 77})
    try:
        await testbed.add_nodes(8)
        await testbed.submit("urgent", 1, priorityClassName=testbed.namespace)
        for pod in await testbed.wait_for_pods("urgent", "coordinator-1", *workers(0)):
            assert (pod["spec"]["priorityClassName"], pod["spec"]["priority"]) == (
                testbed.namespace,
                77,
            )
    finally:
        await kube.delete(f"{classes}/{testbed.namespace}")


@pytest.mark.parametrize("refused", ["pods", "secrets"])
async def test_a_rejected_child_is_reported_and_created_once_the_quota_allows_it(
    testbed: Testbed, kube: KubeClient, refused: str
) -> None:
    await testbed.add_nodes(8)
    await testbed.submit("first", 2)
    # The operator has then observed that the node is ready.
    await testbed.wait_for_phase("first", "Running")
    quota = {"metadata": {"name": "none"}, "spec": {"hard": {refused: "0"}}}
    await kube.create(testbed.path("resourcequotas"), quota)

    async def in_force() -> None:
        quota = await kube.get(testbed.path("resourcequotas", "none"))
        assert quota.get("status", {}).get("hard"), "the quota's controller has not synced it"

    await eventually(in_force)
    await testbed.submit("digits", 2)
    job = await testbed.wait_for(
        "digits", lambda job: condition(job, "Degraded")["status"] == "True"
    )
    degraded = condition(job, "Degraded")
    assert degraded["reason"] == "ChildRefused"
    assert "exceeded quota: none" in degraded["message"]
    await kube.delete(testbed.path("resourcequotas", "none"))
    await testbed.wait_for_pods("digits", "coordinator-1", *workers(0, 1))
    job = await testbed.wait_for_phase("digits", "Running")
    assert condition(job, "Degraded")["status"] == "False"
    await testbed.wait_for_events("digits", "ChildRefused")
    assert len(await testbed.events("digits")) == 1


async def test_a_foreign_pod_with_the_name_of_a_child_is_reported(
    testbed: Testbed, kube: KubeClient
) -> None:
    [node] = await testbed.add_nodes(8)
    foreign_pod: Object = {
        "metadata": {"name": "digits-worker-1-1"},
        "spec": {"containers": [{"name": "c", "image": "i"}], "nodeName": node},
    }
    await kube.create(testbed.path("pods"), foreign_pod)
    await testbed.submit("digits", 2)
    job = await testbed.wait_for(
        "digits", lambda job: condition(job, "Degraded")["status"] == "True"
    )
    assert condition(job, "Degraded")["reason"] == "ChildRefused"
    assert "digits-worker-1-1" in condition(job, "Degraded")["message"]
    await kube.delete(testbed.path("pods", "digits-worker-1-1"), grace_seconds=0)
    await testbed.wait_for_pods("digits", "coordinator-1", *workers(0, 1))


async def test_children_of_an_earlier_job_of_the_same_name_are_replaced(
    testbed: Testbed, kube: KubeClient
) -> None:
    """The garbage collector may be slow: the Secret of the earlier job still exists."""
    await testbed.add_nodes(8)
    owner = {
        "apiVersion": "trainyard.dev/v1alpha1",
        "kind": "DistributedJob",
        "name": "digits",
        "uid": "00000000-0000-0000-0000-000000000000",
        "controller": True,
        "blockOwnerDeletion": True,
    }
    stale_metadata = {
        "name": "digits-trainyard-tls",
        "labels": {"app.kubernetes.io/managed-by": "trainyard"},
        "ownerReferences": [owner],
        "finalizers": ["test/slow"],
    }
    await kube.create(
        testbed.path("secrets"), {"metadata": stale_metadata, "data": {"ca.crt": "b2xk"}}
    )
    await testbed.submit("digits", 1)
    await eventually(lambda: _is_terminating(kube, testbed.path("secrets", "digits-trainyard-tls")))
    without_finalizers = {"metadata": {"finalizers": None}}
    await testbed.patch(testbed.path("secrets", "digits-trainyard-tls"), without_finalizers)
    job = await testbed.wait_for_phase("digits", "Running")

    async def is_ours() -> None:
        secret = await kube.get(testbed.path("secrets", "digits-trainyard-tls"))
        owners = [o["uid"] for o in secret["metadata"]["ownerReferences"]]
        assert owners == [job["metadata"]["uid"]]
        assert len(secret["data"]) == 5

    await eventually(is_ours)


async def test_deleting_a_job_deletes_all_its_children(
    testbed: Testbed, kube: KubeClient, operator_namespace: str
) -> None:
    await testbed.add_nodes(8)
    await testbed.submit("digits", 2)
    await testbed.wait_for_phase("digits", "Running")
    before = await _names_of_secrets(kube, operator_namespace)
    await testbed.delete("digits")

    async def is_deleted() -> None:
        assert await testbed.pods() == []
        assert (await kube.get(testbed.path("secrets")))["items"] == []
        services = (await kube.get(testbed.path("services")))["items"]
        assert [s["metadata"]["name"] for s in services] == ["trainyard"], "for the next job"

    await eventually(is_deleted)
    assert before == await _names_of_secrets(kube, operator_namespace) == ["trainyard-master"]


async def test_a_restarted_operator_restores_deleted_children(
    testbed: Testbed, kube: KubeClient, operator: OperatorProcess
) -> None:
    await testbed.add_nodes(8)
    await testbed.submit("kept", 1)
    await testbed.submit("removed", 1)
    await testbed.wait_for_phase("kept", "Running")
    await testbed.wait_for_phase("removed", "Running")
    service = f"{testbed.path('services')}/trainyard"
    before = await kube.get(service)
    leaves = await kube.get(f"{testbed.path('secrets')}/kept-trainyard-tls")
    await kube.delete(service)
    await kube.delete(f"{testbed.path('secrets')}/removed-trainyard-tls")
    operator.kill()
    operator.start()
    operator.wait_until_ready()

    async def is_restored() -> None:
        assert await testbed.exists(service)
        assert (await kube.get(service))["spec"] == before["spec"]
        assert await testbed.exists(f"{testbed.path('secrets')}/removed-trainyard-tls")

    await eventually(is_restored)
    assert await kube.get(f"{testbed.path('secrets')}/kept-trainyard-tls") == leaves


async def test_checking_that_a_secret_exists_transfers_no_key(
    testbed: Testbed, kube: KubeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    responses = []
    request = kube.request

    async def recorded(*args: Any, **options: Any) -> Object:
        responses.append(await request(*args, **options))
        return responses[-1]

    await testbed.add_nodes(8)
    await testbed.submit("digits", 1)
    await testbed.wait_for_pods("digits", "coordinator-1", *workers(0))
    path = testbed.path("secrets", "digits-trainyard-tls")
    before = await kube.get(path)
    monkeypatch.setattr(kube, "request", recorded)
    assert await kube.metadata(path) == before["metadata"]
    assert await kube.metadata(f"{path}-of-another") is None
    [response] = responses
    assert response["metadata"]["name"] == "digits-trainyard-tls"
    assert "data" not in response
    assert await kube.get(path) == before


async def _names_of_secrets(kube: KubeClient, namespace: str) -> list[str]:
    found = (await kube.get(f"/api/v1/namespaces/{namespace}/secrets"))["items"]
    return [secret["metadata"]["name"] for secret in found]


async def _is_terminating(kube: KubeClient, path: str) -> None:
    assert "deletionTimestamp" in (await kube.get(path))["metadata"]
