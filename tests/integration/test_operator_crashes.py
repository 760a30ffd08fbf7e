"""The operator dies, at any moment: what it had begun is finished once, and by its successor."""

from __future__ import annotations

import asyncio
import random
from functools import partial

import pytest

from tests.support.kubelet import Kubelet
from tests.support.manifests import Object
from tests.support.pod_recorder import PodRecorder
from tests.support.process import OperatorProcess
from tests.support.testbed import Testbed, workers
from tests.support.waiting import eventually
from trainyard.cluster.client import KubeClient

pytestmark = pytest.mark.integration

KILLS = 5
WORKERS = 3
JOBS_EACH = 2
QUIET_SECONDS = 1.5


async def ready(operator: OperatorProcess) -> None:
    """Start it and wait until it acts."""
    operator.start()
    await asyncio.to_thread(operator.wait_until_ready)


async def kill_soon(operator: OperatorProcess, recorder: PodRecorder, rng: random.Random) -> None:
    """Kill it just after one of the next pods was created, or after a moment."""
    if rng.random() < 0.7:
        creations = recorder.creations + rng.randint(1, JOBS_EACH * (WORKERS + 1))
        await recorder.wait_for_creations(creations, seconds=2)
    else:
        await asyncio.sleep(rng.uniform(0, 0.4))
    operator.kill()


@pytest.mark.parametrize("seed", [20_261_122])
async def test_killed_at_any_moment_no_pod_is_created_twice(
    testbed: Testbed, kubelet: Kubelet, mortal: OperatorProcess, seed: int
) -> None:
    rng = random.Random(seed)
    await testbed.add_nodes(*[8] * (KILLS * JOBS_EACH * WORKERS // 8 + 1), is_attended=False)
    names: list[str] = []
    failed: dict[str, str] = {}
    async with PodRecorder(testbed) as recorder:
        for kill in range(KILLS):
            early = rng.random() < 0.5
            for number in range(JOBS_EACH):
                names.append(f"job-{kill}-{number}")
            if early:
                await _submit(testbed, names[-JOBS_EACH:])
            await ready(mortal)
            if not early:
                await _submit(testbed, names[-JOBS_EACH:])
            await kill_soon(mortal, recorder, rng)
            await _break_one(testbed, kubelet, failed, rng)
        await ready(mortal)
        for name in names:
            broken = failed.get(name, "")
            expected = [
                f"worker-{i}-{2 if broken == f'{name}-worker-{i}-1' else 1}" for i in range(WORKERS)
            ]
            await testbed.wait_for_pods(name, "coordinator-1", *expected)
            job = await testbed.wait_for_phase(name, "Running")
            assert job["status"].get("restarts", 0) == (1 if broken else 0)
            assert job["status"]["term"] == 1
        assert recorder.duplicates == []
        assert {n: count for n, count in recorder.creation_counts().items() if count != 1} == {}
    assert len(failed) >= KILLS // 2


async def _submit(testbed: Testbed, names: list[str]) -> None:
    for name in names:
        await testbed.submit(name, WORKERS)


async def _break_one(
    testbed: Testbed, kubelet: Kubelet, failed: dict[str, str], rng: random.Random
) -> None:
    """One worker fails, of a job that has had no failure yet, if one has pods."""

    async def candidates() -> list[Object]:
        pods = [p for p in await testbed.pods("", "worker") if _job_of(p) not in failed]
        running = [p for p in pods if p["status"]["phase"] == "Running"]
        assert running or not pods, "they will run: only the operator is dead"
        return running

    if found := await eventually(candidates):
        pod = rng.choice(found)
        failed[_job_of(pod)] = pod["metadata"]["name"]
        await kubelet.fail(pod, "nobody was there to see it")


def _job_of(pod: Object) -> str:
    return str(pod["metadata"]["labels"]["trainyard.dev/job"])


async def test_told_to_stop_it_leaves_all_as_it_is_and_so_does_its_successor(
    testbed: Testbed, mortal: OperatorProcess
) -> None:
    await testbed.add_nodes(8)
    await ready(mortal)
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
    assert await asyncio.to_thread(mortal.stop) == 0
    assert [p["metadata"]["uid"] for p in await testbed.pods()] == pods
    await ready(mortal)
    # A job that comes after has been seen to, so those before it have been too.
    await testbed.submit("last", 1)
    await testbed.wait_for_phase("last", "Running")
    await testbed.delete("last")
    for name, status in before.items():
        await eventually(partial(_is_as_before, testbed, name, status))
    left = [
        p["metadata"]["uid"] for p in await testbed.pods() if "last" not in p["metadata"]["name"]
    ]
    assert left == pods


async def _is_as_before(testbed: Testbed, name: str, status: Object) -> None:
    assert _lasting((await testbed.get(name))["status"]) == _lasting(status)


def _lasting(status: Object) -> Object:
    """The status without sentences, which may count other jobs, and the Plan, sent anew."""
    conditions = [{**c, "message": ""} for c in status["conditions"]]
    scaling = {**status.get("scaling", {}), "message": ""}
    return {**status, "conditions": conditions, "scaling": scaling, "planGeneration": 0}


async def test_a_job_deleted_meanwhile_leaves_no_authority(
    testbed: Testbed, kube: KubeClient, mortal: OperatorProcess, operator_namespace: str
) -> None:
    await testbed.add_nodes(8)
    await ready(mortal)
    await testbed.submit("kept", 1)
    gone = await testbed.submit("gone", 1)
    await testbed.wait_for_phase("kept", "Running")
    await testbed.wait_for_phase("gone", "Running")
    mortal.kill()
    await testbed.delete("gone")
    await eventually(lambda: _no_pods(testbed, "gone"))
    assert len(await _authorities(kube, operator_namespace, testbed)) == 2
    await ready(mortal)

    async def swept() -> None:
        uids = await _authorities(kube, operator_namespace, testbed)
        assert gone["metadata"]["uid"] not in uids
        assert len(uids) == 1

    await eventually(swept)
    await testbed.wait_for_phase("kept", "Running")


async def test_a_namesake_made_meanwhile_starts_beside_the_old_pods(
    testbed: Testbed, kube: KubeClient, kubelet: Kubelet, mortal: OperatorProcess
) -> None:
    """The old pods are still leaving: theirs are the old names, and their failures are not ours."""
    await testbed.add_nodes(8, is_attended=False)
    await ready(mortal)
    old = await testbed.submit("digits", 2)
    await testbed.wait_for_phase("digits", "Running")
    kubelet.stops = False
    mortal.kill()
    await testbed.delete("digits")
    await eventually(lambda: _all_leave(testbed, "digits"))
    new = await testbed.submit("digits", 2)
    await ready(mortal)
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

    async def certificates_are_ours() -> None:
        secret = await kube.get(testbed.path("secrets", "digits-trainyard-tls"))
        assert _owner(secret) == new["metadata"]["uid"]

    await eventually(certificates_are_ours)
    assert "failures" not in job["status"]


async def _no_pods(testbed: Testbed, job: str) -> None:
    assert await testbed.pods(job) == []


async def _all_leave(testbed: Testbed, job: str) -> None:
    pods = await testbed.pods(job)
    assert pods
    assert not [p for p in pods if "deletionTimestamp" not in p["metadata"]]


def _owner(child: Object) -> str:
    [owner] = child["metadata"]["ownerReferences"]
    return str(owner["uid"])


async def _authorities(kube: KubeClient, namespace: str, testbed: Testbed) -> set[str]:
    """The uids of this testbed's jobs that have an authority."""
    path = f"/api/v1/namespaces/{namespace}/secrets"
    selector = f"trainyard.dev/namespace={testbed.namespace}"
    found = kube.list_all(path, label_selector=selector)
    return {s["metadata"]["annotations"]["trainyard.dev/job-uid"] async for s in found}
