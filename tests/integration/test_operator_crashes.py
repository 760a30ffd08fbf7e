"""The operator is killed or restarted: its successor continues without repeating anything."""

from __future__ import annotations

import asyncio
import base64
import random
from datetime import UTC, datetime
from functools import partial

import pytest
from cryptography import x509

from tests.support.kubelet import Kubelet
from tests.support.manifests import Object
from tests.support.pod_recorder import PodRecorder
from tests.support.process import OperatorProcess
from tests.support.stored import random_authority, stored_secret
from tests.support.testbed import Testbed, workers
from tests.support.waiting import eventually
from trainyard.api.jobs import parse_job
from trainyard.cluster.certificates import Authority
from trainyard.cluster.client import KubeClient

pytestmark = pytest.mark.integration

KILLS = 5
WORKERS = 3
JOBS_EACH = 2
QUIET_SECONDS = 1.5


async def kill_soon(operator: OperatorProcess, recorder: PodRecorder, rng: random.Random) -> None:
    """Kill the operator just after the creation of one of the next pods, or after a short delay."""
    if rng.random() < 0.7:
        creations = recorder.creations + rng.randint(1, JOBS_EACH * (WORKERS + 1))
        await recorder.wait_for_creations(creations, seconds=2)
    else:
        await asyncio.sleep(rng.uniform(0, 0.4))
    operator.kill()


@pytest.mark.parametrize("seed", [20_261_122])
async def test_an_operator_killed_at_any_moment_creates_no_pod_twice(
    testbed: Testbed, kubelet: Kubelet, restartable: OperatorProcess, seed: int
) -> None:
    rng = random.Random(seed)
    await testbed.add_nodes(*[8] * (KILLS * JOBS_EACH * WORKERS // 8 + 1), is_attended=False)
    names: list[str] = []
    failed: dict[str, str] = {}
    async with PodRecorder(testbed) as recorder:
        for kill in range(KILLS):
            is_early = rng.random() < 0.5
            for number in range(JOBS_EACH):
                names.append(f"job-{kill}-{number}")
            if is_early:
                await _submit(testbed, names[-JOBS_EACH:])
            await restartable.start_until_ready()
            if not is_early:
                await _submit(testbed, names[-JOBS_EACH:])
            await kill_soon(restartable, recorder, rng)
            await _fail_a_worker(testbed, kubelet, failed, rng)
        await restartable.start_until_ready()
        for name in names:
            failed_pod = failed.get(name, "")
            expected = [
                f"worker-{i}-{2 if failed_pod == f'{name}-worker-{i}-1' else 1}"
                for i in range(WORKERS)
            ]
            await testbed.wait_for_pods(name, "coordinator-1", *expected)
            job = await testbed.wait_for_phase(name, "Running")
            assert job["status"].get("restarts", 0) == (1 if failed_pod else 0)
            assert job["status"]["term"] == 1
        assert recorder.duplicates == []
        assert {n: count for n, count in recorder.creation_counts().items() if count != 1} == {}
    assert len(failed) >= KILLS // 2


async def _submit(testbed: Testbed, names: list[str]) -> None:
    for name in names:
        await testbed.submit(name, WORKERS)


async def _fail_a_worker(
    testbed: Testbed, kubelet: Kubelet, failed: dict[str, str], rng: random.Random
) -> None:
    """Let one worker fail, of a job without a failure; do nothing while no job has pods."""

    async def candidates() -> list[Object]:
        pods = [p for p in await testbed.pods("", "worker") if _job_of(p) not in failed]
        running = [p for p in pods if p["status"]["phase"] == "Running"]
        assert running or not pods, "the pods run soon, as only the operator is killed"
        return running

    if running := await eventually(candidates):
        pod = rng.choice(running)
        failed[_job_of(pod)] = pod["metadata"]["name"]
        await kubelet.fail(pod, "failed while the operator was down")


def _job_of(pod: Object) -> str:
    return str(pod["metadata"]["labels"]["trainyard.dev/job"])


async def test_a_graceful_restart_changes_no_job_and_no_pod(
    testbed: Testbed, restartable: OperatorProcess
) -> None:
    await testbed.add_nodes(8)
    await restartable.start_until_ready()
    await testbed.submit("digits", 3, minimum=1, maximum=8)
    await testbed.submit("suspended", 1, suspend=True)
    await testbed.submit("waiting", 20)
    await testbed.wait_for_phase("digits", "Running")
    await testbed.scale("digits", 2)
    await testbed.wait_for_pods("digits", "coordinator-1", *workers(0, 1))
    await testbed.wait_for_phase("suspended", "Suspended")
    await testbed.wait_for_phase("waiting", "Waiting")
    await testbed.wait_until_settled("digits")
    before = {
        j["metadata"]["name"]: j["status"]
        for j in await testbed.wait_until_unchanged(QUIET_SECONDS)
    }
    pods = [p["metadata"]["uid"] for p in await testbed.pods()]
    assert await asyncio.to_thread(restartable.stop) == 0
    assert [p["metadata"]["uid"] for p in await testbed.pods()] == pods
    await restartable.start_until_ready()
    # Once this job runs, the earlier ones have been reconciled too.
    await testbed.submit("last", 1)
    await testbed.wait_for_phase("last", "Running")
    await testbed.delete("last")
    for name, status in before.items():
        await eventually(partial(_is_unchanged, testbed, name, status))
    remaining = [
        p["metadata"]["uid"] for p in await testbed.pods() if "last" not in p["metadata"]["name"]
    ]
    assert remaining == pods


async def _is_unchanged(testbed: Testbed, name: str, status: Object) -> None:
    assert _without_messages((await testbed.get(name))["status"]) == _without_messages(status)


def _without_messages(status: Object) -> Object:
    """The status without messages, which may count other jobs, and the Plan's generation."""
    conditions = [{**c, "message": ""} for c in status["conditions"]]
    scaling = {**status.get("scaling", {}), "message": ""}
    return {**status, "conditions": conditions, "scaling": scaling, "planGeneration": 0}


async def test_after_an_upgrade_stored_authorities_serve_the_jobs_there_are_and_no_others(
    testbed: Testbed, kube: KubeClient, restartable: OperatorProcess, operator_namespace: str
) -> None:
    """A release that stored them ended, and a job was deleted before the next one started."""
    await testbed.add_nodes(8)
    await restartable.start_until_ready()
    kept, gone = await testbed.submit("kept", 1), await testbed.submit("gone", 1)
    for name in ("kept", "gone"):
        await testbed.wait_for_phase(name, "Running")
    pods = await testbed.pods("kept")
    restartable.kill()
    authority = await _store_authority(kube, operator_namespace, kept)
    await _store_authority(kube, operator_namespace, gone)
    leaves = f"{testbed.path('secrets')}/kept-trainyard-tls"
    await testbed.patch(leaves, {"metadata": {"annotations": None}})
    await testbed.delete("gone")
    await eventually(lambda: _no_pods(testbed, "gone"))
    assert len(await _authorities(kube, operator_namespace, testbed)) == 2
    await restartable.start_until_ready()

    async def swept_and_used() -> None:
        uids = await _authorities(kube, operator_namespace, testbed)
        assert uids == {kept["metadata"]["uid"]}
        secret = await kube.get(leaves)
        assert base64.b64decode(secret["data"]["ca.crt"]) == authority.pem
        leaf = x509.load_pem_x509_certificate(base64.b64decode(secret["data"]["worker.crt"]))
        assert leaf.issuer == authority.certificate.subject

    await eventually(swept_and_used)
    await testbed.wait_for_phase("kept", "Running")
    assert [p["metadata"]["uid"] for p in await testbed.pods("kept")] == [
        p["metadata"]["uid"] for p in pods
    ]
    await testbed.delete("kept")

    async def gone_with_its_job() -> None:
        assert await _authorities(kube, operator_namespace, testbed) == set()

    await eventually(gone_with_its_job)


async def _store_authority(kube: KubeClient, namespace: str, raw: Object) -> Authority:
    job = parse_job(raw)
    authority = random_authority(job.key, datetime.now(UTC))
    secret = stored_secret(job.key, job.uid, authority)
    await kube.create(f"/api/v1/namespaces/{namespace}/secrets", secret)
    return authority


async def test_a_job_recreated_while_the_operator_is_down_starts_beside_the_old_pods(
    testbed: Testbed, kube: KubeClient, kubelet: Kubelet, restartable: OperatorProcess
) -> None:
    """The old pods are still terminating: they keep their names and count no failures."""
    await testbed.add_nodes(8, is_attended=False)
    await restartable.start_until_ready()
    old = await testbed.submit("digits", 2)
    await testbed.wait_for_phase("digits", "Running")
    kubelet.stops = False
    restartable.kill()
    await testbed.delete("digits")
    await eventually(lambda: _all_terminate(testbed, "digits"))
    new = await testbed.submit("digits", 2)
    await restartable.start_until_ready()
    job = await testbed.wait_for_phase("digits", "Running")
    owners = {p["metadata"]["name"]: _owner(p) for p in await testbed.pods("digits")}
    assert owners == {
        **dict.fromkeys(
            [f"digits-{name}" for name in ("coordinator-1", *workers(0, 1))], old["metadata"]["uid"]
        ),
        **dict.fromkeys(
            [f"digits-{name}" for name in ("coordinator-2", *workers(0, 1, attempt=2))],
            new["metadata"]["uid"],
        ),
    }
    kubelet.stops = True
    for pod in await testbed.pods("digits"):
        if _owner(pod) == old["metadata"]["uid"]:
            await kubelet.remove(pod)
    await testbed.wait_for_pods("digits", "coordinator-2", *workers(0, 1, attempt=2))

    async def certificates_belong_to_the_new_job() -> None:
        secret = await kube.get(testbed.path("secrets", "digits-trainyard-tls"))
        assert _owner(secret) == new["metadata"]["uid"]

    await eventually(certificates_belong_to_the_new_job)
    assert "failures" not in job["status"]


async def _no_pods(testbed: Testbed, job: str) -> None:
    assert await testbed.pods(job) == []


async def _all_terminate(testbed: Testbed, job: str) -> None:
    pods = await testbed.pods(job)
    assert pods
    assert not [p for p in pods if "deletionTimestamp" not in p["metadata"]]


def _owner(child: Object) -> str:
    [owner] = child["metadata"]["ownerReferences"]
    return str(owner["uid"])


async def _authorities(kube: KubeClient, namespace: str, testbed: Testbed) -> set[str]:
    """The uids of this testbed's jobs that have a stored authority."""
    path = f"/api/v1/namespaces/{namespace}/secrets"
    selector = f"trainyard.dev/namespace={testbed.namespace}"
    secrets = kube.list_all(path, label_selector=selector)
    return {s["metadata"]["annotations"]["trainyard.dev/job-uid"] async for s in secrets}
