"""Certificates on a real API server: a master rotated or malformed, Secrets of somebody else."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from kubernetes import client

from tests.integration.conftest import temporary_namespace
from tests.support.manifests import Object
from tests.support.process import OperatorProcess
from tests.support.testbed import Testbed, condition, workers
from tests.support.waiting import eventually
from trainyard.cluster.client import KubeClient
from trainyard.cluster.errors import ApiError
from trainyard.cluster.issuance import OVERLAP
from trainyard.cluster.master import MasterStore, name_of
from trainyard.reconcile.rotation import RETIRE_AFTER

pytestmark = pytest.mark.integration

RECORD = "trainyard.dev/certificates"
PARTIES: list[Object] = [{"name": "ann"}, {"name": "bob"}]
LEAVES = ("digits-trainyard-tls", "heart-trainyard-tls")


@pytest.fixture
def operator_namespace(api: client.ApiClient) -> Iterator[str]:
    """Of each test's own, as is the master in it."""
    with temporary_namespace(api, "operator") as name:
        yield name


async def restart(operator: OperatorProcess) -> None:
    """Kill it; its successor lists everything and reads what is recorded on the Secrets."""
    operator.kill()
    await operator.start_until_ready()


def path_of_master(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/secrets/trainyard-master"


async def run_one_of_each_kind(testbed: Testbed) -> list[str]:
    """Start a job of each kind; returns the uids of all pods."""
    await testbed.add_nodes(8)
    await testbed.submit("digits", 2)
    await testbed.federate("heart", PARTIES, rounds={"minParties": 2})
    await testbed.wait_for_phase("digits", "Running")
    await testbed.wait_for_phase("heart", "Running")
    return await uids(testbed)


async def uids(testbed: Testbed) -> list[str]:
    return sorted(pod["metadata"]["uid"] for pod in await testbed.pods())


async def certificates(
    testbed: Testbed, secret: str
) -> tuple[list[x509.Certificate], x509.Certificate]:
    """The bundle, and the coordinator's leaf."""
    data = (await testbed.client.get(f"{testbed.path('secrets')}/{secret}"))["data"]
    bundle = x509.load_pem_x509_certificates(base64.b64decode(data["ca.crt"]))
    return bundle, x509.load_pem_x509_certificate(base64.b64decode(data["coordinator.crt"]))


async def until_signed(testbed: Testbed, trusted: int, by: int) -> None:
    """Wait until every Secret trusts so many authorities, and that one of them signs."""

    async def check() -> None:
        for secret in LEAVES:
            bundle, leaf = await certificates(testbed, secret)
            assert len(bundle) == trusted
            assert is_signed(leaf, bundle[by]), f"{secret} is not signed by {by}"

    await eventually(check, 60)


def is_signed(leaf: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        leaf.verify_directly_issued_by(authority)
    except InvalidSignature:
        return False
    return True


async def backdate(testbed: Testbed, field: str, age: timedelta) -> None:
    """Make every Secret look as if its certificates were older."""
    for secret in LEAVES:
        path = f"{testbed.path('secrets')}/{secret}"
        annotations = (await testbed.client.get(path))["metadata"]["annotations"]
        moment = datetime.now(UTC).replace(microsecond=0) - age
        record: Any = {**json.loads(annotations[RECORD]), field: moment.isoformat()}
        await testbed.patch(path, {"metadata": {"annotations": {RECORD: json.dumps(record)}}})


async def test_an_annotation_rotates_the_master(
    testbed: Testbed, restartable: OperatorProcess, operator_namespace: str
) -> None:
    master = path_of_master(operator_namespace)
    await restartable.start_until_ready()
    before = await run_one_of_each_kind(testbed)
    await until_signed(testbed, 1, 0)
    annotations = {"trainyard.dev/rotate": "now", "example.com/theirs": "stays"}
    await testbed.patch(master, {"metadata": {"annotations": annotations}})
    await restart(restartable)
    await until_signed(testbed, 2, 0)
    found = await testbed.client.get(master)
    assert len(found["data"]) == 2
    assert found["metadata"]["annotations"] == {"example.com/theirs": "stays"}
    assert await uids(testbed) == before
    await testbed.delete("heart")


@pytest.fixture
async def old_master(kube: KubeClient, operator_namespace: str) -> str:
    """The path of a master of one version, of three hours ago, before an operator starts."""
    await kube.create(
        f"/api/v1/namespaces/{operator_namespace}/secrets",
        {
            "metadata": {
                "name": "trainyard-master",
                "labels": {"app.kubernetes.io/managed-by": "trainyard"},
            },
            "data": version(3 * RETIRE_AFTER),
        },
    )
    return path_of_master(operator_namespace)


def version(age: timedelta) -> dict[str, str]:
    """A version of the master as an administrator may add it."""
    secret = base64.b64encode(os.urandom(32)).decode()
    return {name_of(datetime.now(UTC) - age): secret}


async def test_a_rotation_goes_through_all_its_phases_with_jobs_of_both_kinds_running(
    testbed: Testbed, old_master: str, restartable: OperatorProcess, operator_namespace: str
) -> None:
    await restartable.start_until_ready()
    before = await run_one_of_each_kind(testbed)
    await until_signed(testbed, 1, 0)
    [(root, _), _] = [await certificates(testbed, secret) for secret in LEAVES]
    await testbed.patch(old_master, {"data": version(2 * RETIRE_AFTER)})
    await restart(restartable)
    await until_signed(testbed, 2, 0)
    assert (await certificates(testbed, LEAVES[0]))[0][0] == root[0]
    await backdate(testbed, "trustedSince", OVERLAP)
    await restart(restartable)
    await until_signed(testbed, 2, 1)
    store = MasterStore(testbed.client, operator_namespace)
    await store.retire(await store.ensure(datetime.now(UTC)))
    await restart(restartable)
    await until_signed(testbed, 1, 0)
    assert len((await testbed.client.get(old_master))["data"]) == 1
    assert (await certificates(testbed, LEAVES[0]))[0] != root
    assert await uids(testbed) == before
    await testbed.delete("heart")


async def test_a_malformed_master_shows_at_the_job_until_it_is_mended(
    testbed: Testbed, kube: KubeClient, restartable: OperatorProcess, operator_namespace: str
) -> None:
    labels = {"app.kubernetes.io/managed-by": "trainyard"}
    secret: Object = {"metadata": {"name": "trainyard-master", "labels": labels}}
    secret["data"] = {"20260701T120000Z": base64.b64encode(b"short").decode()}
    await kube.create(f"/api/v1/namespaces/{operator_namespace}/secrets", secret)
    await restartable.start_until_ready()
    await testbed.add_nodes(8)
    await testbed.submit("digits", 1)
    job = await testbed.wait_for(
        "digits", lambda job: condition(job, "Degraded")["status"] == "True"
    )
    assert condition(job, "Degraded")["reason"] == "ChildRefused"
    assert (
        f"Secret {operator_namespace}/trainyard-master holds 5 bytes under '20260701T120000Z'"
    ) in condition(job, "Degraded")["message"]
    await kube.delete(path_of_master(operator_namespace))
    await testbed.wait_for_pods("digits", "coordinator-1", *workers(0))
    await testbed.wait_for_phase("digits", "Running")


async def test_a_secret_of_somebody_else_under_our_name_shows_and_stays(
    testbed: Testbed, kube: KubeClient, restartable: OperatorProcess
) -> None:
    await restartable.start_until_ready()
    await testbed.add_nodes(8)
    squatter: Object = {"metadata": {"name": "digits-trainyard-tls"}, "data": {"ca.crt": "b2xk"}}
    await kube.create(testbed.path("secrets"), squatter)
    await testbed.submit("digits", 1)
    job = await testbed.wait_for(
        "digits", lambda job: condition(job, "Degraded")["status"] == "True"
    )
    assert condition(job, "Degraded")["message"].endswith(
        f"Secret {testbed.namespace}/digits-trainyard-tls is not Trainyard's: "
        "delete it, or rename the job"
    )
    path = f"{testbed.path('secrets')}/digits-trainyard-tls"
    found = await kube.get(path)
    assert found["data"] == {"ca.crt": "b2xk"}
    assert "ownerReferences" not in found["metadata"]
    await kube.delete(path)
    await testbed.wait_for_pods("digits", "coordinator-1", *workers(0))


async def test_fields_are_replaced_only_in_the_version_that_was_seen(
    testbed: Testbed, kube: KubeClient
) -> None:
    path = f"{testbed.path('secrets')}/some"
    secret: Object = {"metadata": {"name": "some", "annotations": {"a/b": "c", "d": "e"}}}
    await kube.create(testbed.path("secrets"), {**secret, "data": {"one": "b2xk", "two": "b2xk"}})
    seen = await kube.metadata(path)
    assert seen is not None
    fields = {"/data": {"two": "bmV3"}, "/metadata/annotations": {"d": "e"}, "/metadata/labels": {}}
    written = await kube.replace_fields(path, seen["resourceVersion"], fields)
    found = await kube.get(path)
    assert found["metadata"] == written
    assert found["metadata"]["annotations"] == {"d": "e"}
    assert found["data"] == {"two": "bmV3"}
    with pytest.raises(ApiError) as caught:
        await kube.replace_fields(path, seen["resourceVersion"], fields)
    assert caught.value.is_conflict
    assert await kube.get(path) == found
