"""The operator dies, at any moment: what it had begun is finished once, and by its successor."""

from __future__ import annotations

import asyncio
import random
from functools import partial

import pytest

from tests.support.kubelet import Kubelet
from tests.support.manifests import Object
from tests.support.process import OperatorProcess
from tests.support.waiting import eventually
from tests.support.witness import Witness
from tests.support.yard import Yard, workers
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


async def kill_soon(operator: OperatorProcess, witness: Witness, dice: random.Random) -> None:
    """Kill it just after one of the next pods was created, or after a moment."""
    if dice.random() < 0.7:
        births = witness.births + dice.randint(1, JOBS_EACH * (WORKERS + 1))
        await witness.until_births(births, seconds=2)
    else:
        await asyncio.sleep(dice.uniform(0, 0.4))
    operator.kill()


@pytest.mark.parametrize("seed", [20_261_122])
async def test_killed_at_any_moment_no_pod_is_created_twice(
    yard: Yard, kubelet: Kubelet, mortal: OperatorProcess, seed: int
) -> None:
    dice = random.Random(seed)
    await yard.add_nodes(*[8] * (KILLS * JOBS_EACH * WORKERS // 8 + 1), is_attended=False)
    names: list[str] = []
    failed: dict[str, str] = {}
    async with Witness(yard) as witness:
        for kill in range(KILLS):
            early = dice.random() < 0.5
            for number in range(JOBS_EACH):
                names.append(f"job-{kill}-{number}")
            if early:
                await _submit(yard, names[-JOBS_EACH:])
            await ready(mortal)
            if not early:
                await _submit(yard, names[-JOBS_EACH:])
            await kill_soon(mortal, witness, dice)
            await _break_one(yard, kubelet, failed, dice)
        await ready(mortal)
        for name in names:
            broken = failed.get(name, "")
            expected = [
                f"worker-{i}-{2 if broken == f'{name}-worker-{i}-1' else 1}" for i in range(WORKERS)
            ]
            await yard.until_pods(name, "coordinator-1", *expected)
            job = await yard.until_phase(name, "Running")
            assert job["status"].get("restarts", 0) == (1 if broken else 0)
            assert job["status"]["term"] == 1
        assert witness.twins == []
        assert {n: count for n, count in witness.created().items() if count != 1} == {}
    assert len(failed) >= KILLS // 2


async def _submit(yard: Yard, names: list[str]) -> None:
    for name in names:
        await yard.submit(name, WORKERS)


async def _break_one(
    yard: Yard, kubelet: Kubelet, failed: dict[str, str], dice: random.Random
) -> None:
    """One worker fails, of a job that has had no failure yet, if one has pods."""

    async def candidates() -> list[Object]:
        pods = [p for p in await yard.pods("", "worker") if _job_of(p) not in failed]
        running = [p for p in pods if p["status"]["phase"] == "Running"]
        assert running or not pods, "they will run: only the operator is dead"
        return running

    if found := await eventually(candidates):
        pod = dice.choice(found)
        failed[_job_of(pod)] = pod["metadata"]["name"]
        await kubelet.fail(pod, "nobody was there to see it")


def _job_of(pod: Object) -> str:
    return str(pod["metadata"]["labels"]["trainyard.dev/job"])


async def test_told_to_stop_it_leaves_all_as_it_is_and_so_does_its_successor(
    yard: Yard, mortal: OperatorProcess
) -> None:
    await yard.add_nodes(8)
    await ready(mortal)
    await yard.submit("digits", 3, minimum=1, maximum=8)
    await yard.submit("suspended", 1, suspend=True)
    await yard.submit("waiting", 20)
    await yard.until_phase("digits", "Running")
    await yard.scale("digits", 2)
    await yard.until_pods("digits", "coordinator-1", *workers(0, 1))
    await yard.until_phase("suspended", "Suspended")
    await yard.until_phase("waiting", "Waiting")
    await yard.until_steady("digits")
    before = {j["metadata"]["name"]: j["status"] for j in await yard.until_quiet(QUIET_SECONDS)}
    pods = [p["metadata"]["uid"] for p in await yard.pods()]
    assert await asyncio.to_thread(mortal.stop) == 0
    assert [p["metadata"]["uid"] for p in await yard.pods()] == pods
    await ready(mortal)
    # A job that comes after has been seen to, so those before it have been too.
    await yard.submit("last", 1)
    await yard.until_phase("last", "Running")
    await yard.delete("last")
    for name, status in before.items():
        await eventually(partial(_is_as_before, yard, name, status))
    left = [p["metadata"]["uid"] for p in await yard.pods() if "last" not in p["metadata"]["name"]]
    assert left == pods


async def _is_as_before(yard: Yard, name: str, status: Object) -> None:
    assert _lasting((await yard.get(name))["status"]) == _lasting(status)


def _lasting(status: Object) -> Object:
    """The status without sentences, which may count other jobs, and the Plan, sent anew."""
    conditions = [{**c, "message": ""} for c in status["conditions"]]
    scaling = {**status.get("scaling", {}), "message": ""}
    return {**status, "conditions": conditions, "scaling": scaling, "planGeneration": 0}


async def test_a_job_deleted_meanwhile_leaves_no_authority(
    yard: Yard, kube: KubeClient, mortal: OperatorProcess, operator_namespace: str
) -> None:
    await yard.add_nodes(8)
    await ready(mortal)
    await yard.submit("kept", 1)
    gone = await yard.submit("gone", 1)
    await yard.until_phase("kept", "Running")
    await yard.until_phase("gone", "Running")
    mortal.kill()
    await yard.delete("gone")
    await eventually(lambda: _no_pods(yard, "gone"))
    assert len(await _authorities(kube, operator_namespace, yard)) == 2
    await ready(mortal)

    async def swept() -> None:
        uids = await _authorities(kube, operator_namespace, yard)
        assert gone["metadata"]["uid"] not in uids
        assert len(uids) == 1

    await eventually(swept)
    await yard.until_phase("kept", "Running")


async def test_a_namesake_made_meanwhile_starts_beside_the_old_pods(
    yard: Yard, kube: KubeClient, kubelet: Kubelet, mortal: OperatorProcess
) -> None:
    """The old pods are still leaving: theirs are the old names, and their failures are not ours."""
    await yard.add_nodes(8, is_attended=False)
    await ready(mortal)
    old = await yard.submit("digits", 2)
    await yard.until_phase("digits", "Running")
    kubelet.stops = False
    mortal.kill()
    await yard.delete("digits")
    await eventually(lambda: _all_leave(yard, "digits"))
    new = await yard.submit("digits", 2)
    await ready(mortal)
    job = await yard.until_phase("digits", "Running")
    owners = {p["metadata"]["name"]: _owner(p) for p in await yard.pods("digits")}
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
    for pod in await yard.pods("digits"):
        if _owner(pod) == old["metadata"]["uid"]:
            await kubelet.remove(pod)
    await yard.until_pods("digits", "coordinator-2", *workers(0, 1, attempt=2))

    async def certificates_are_ours() -> None:
        secret = await kube.get(f"{yard.path('secrets')}/digits-trainyard-tls")
        assert _owner(secret) == new["metadata"]["uid"]

    await eventually(certificates_are_ours)
    assert "failures" not in job["status"]


async def _no_pods(yard: Yard, job: str) -> None:
    assert await yard.pods(job) == []


async def _all_leave(yard: Yard, job: str) -> None:
    pods = await yard.pods(job)
    assert pods
    assert not [p for p in pods if "deletionTimestamp" not in p["metadata"]]


def _owner(child: Object) -> str:
    [owner] = child["metadata"]["ownerReferences"]
    return str(owner["uid"])


async def _authorities(kube: KubeClient, namespace: str, yard: Yard) -> set[str]:
    """The uids of this yard's jobs that have an authority."""
    path = f"/api/v1/namespaces/{namespace}/secrets"
    selector = f"trainyard.dev/namespace={yard.name}"
    found = kube.list_all(path, label_selector=selector)
    return {s["metadata"]["annotations"]["trainyard.dev/job-uid"] async for s in found}
