"""Jobs that began under a stored authority: they finish under it, and it goes with them."""

from __future__ import annotations

import base64
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.support.dependencies import dependencies_of
from tests.support.fakeapi import FakeApi
from tests.support.federations import make_federation
from tests.support.jobs import KEY, NETWORK, NOW, UID, has_run, make_job
from tests.support.rotation import MASTER
from tests.support.stored import encoded, random_authority, stored_secret
from trainyard.api import names
from trainyard.api.jobs import Job
from trainyard.cluster.certificates import RENEW_AFTER, Authority, issue
from trainyard.reconcile.dependencies import Dependencies, Options
from trainyard.reconcile.job import reconcile
from trainyard.reconcile.leaves import ensure_leaves
from trainyard.reconcile.rotation import sweep_stored
from trainyard_trainer.contract.env import Role

SECRETS = "/api/v1/namespaces/trainyard-system/secrets"
CA = f"{SECRETS}/trainyard-ca-{UID}"
LEAVES = "/api/v1/namespaces/team/secrets/digits-trainyard-tls"


def authority() -> Authority:
    return random_authority(KEY, NOW)


def store(api: FakeApi, job: Job, made: Authority) -> None:
    """The Secrets of a job as the earlier release left them."""
    secret = stored_secret(job.key, job.uid, made)
    api.objects[f"{SECRETS}/{secret['metadata']['name']}"] = secret
    labels = {"app.kubernetes.io/managed-by": "trainyard"}
    leaf = issue(made, job.key, Role.WORKER, NOW)
    owner = {
        "apiVersion": "trainyard.dev/v1alpha1",
        "kind": job.key.kind,
        "name": job.key.name,
        "uid": job.uid,
        "controller": True,
    }
    api.objects[LEAVES] = {
        "metadata": {"labels": labels, "ownerReferences": [owner]},
        "data": encoded({"ca.crt": made.pem, "worker.crt": leaf.certificate}),
    }


@pytest.fixture
def api() -> FakeApi:
    return FakeApi()


async def leader(api: FakeApi, *jobs: Job, **others: Any) -> Dependencies:
    """An operator at the start of its leadership."""
    deps = dependencies_of(api, *jobs, **others)
    await sweep_stored(deps, {job.uid for job in jobs})
    return deps


def certificate(api: FakeApi, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(base64.b64decode(api.objects[LEAVES]["data"][name]))


@pytest.mark.parametrize(
    "job", [make_job({}, has_run()), make_federation({}, has_run())], ids=lambda job: job.key.kind
)
async def test_a_job_that_began_under_a_stored_authority_finishes_under_it(
    job: Job, api: FakeApi
) -> None:
    made = authority()
    store(api, job, made)
    deps = await leader(api, job)
    for now in (NOW, NOW + RENEW_AFTER):
        issuance = await ensure_leaves(deps, job, NETWORK, now)
        assert (issuance.signer, issuance.trusted) == ("stored", ("stored",))
        assert issuance.issued_at == now
        assert certificate(api, "ca.crt") == made.certificate
        certificate(api, "coordinator.crt").verify_directly_issued_by(made.certificate)
    before = api.objects[LEAVES]
    await ensure_leaves(await leader(api, job), job, NETWORK, NOW + RENEW_AFTER + timedelta(days=1))
    assert api.objects[LEAVES] is before, "its renewal is recorded on it from now on"
    assert CA in api.objects
    assert MASTER not in api.objects, "nothing is derived for it"


async def test_the_operator_connects_by_the_stored_authority_without_a_request(
    api: FakeApi,
) -> None:
    job, made = make_job({}, has_run()), authority()
    store(api, job, made)
    deps = await leader(api, job)
    api.requests.clear()
    context = await deps.authorities.operator_context(job.key, job.uid, NOW)
    assert api.requests == []
    [trusted] = context.get_ca_certs(binary_form=True)
    assert trusted == made.certificate.public_bytes(Encoding.DER)


async def test_a_stored_authority_is_deleted_with_its_job(api: FakeApi) -> None:
    job = make_job({}, has_run())
    store(api, job, authority())
    deps = await leader(api, job)
    deps.job_state(job)
    deps.cache.drop_job(job.key)
    await reconcile(deps, job.key)
    assert CA not in api.objects
    api.requests.clear()
    await sweep_stored(deps, set())
    assert api.requests == [], "none is left, and none will come"


async def test_the_authorities_of_jobs_that_are_gone_are_swept_by_the_next_leader(
    api: FakeApi,
) -> None:
    store(api, make_job(), authority())
    kept = make_federation(uid="uid-of-kept")
    store(api, kept, authority())
    deps = await leader(api, kept)
    assert CA not in api.objects
    assert deps.authorities.stored.find("uid-of-kept")
    assert not deps.authorities.stored.find(UID)


async def test_a_job_created_since_the_listing_keeps_its_authority(api: FakeApi) -> None:
    job = make_job()
    store(api, job, authority())
    await sweep_stored(dependencies_of(api, job), set())
    assert CA in api.objects


async def test_authorities_in_namespaces_that_are_not_served_stay(api: FakeApi) -> None:
    store(api, make_job(), authority())
    await leader(api, options=Options(namespaces=("other",)))
    assert CA in api.objects
    await leader(api, options=Options(namespaces=("team",)))
    assert CA not in api.objects


async def test_they_are_listed_once_where_there_are_none(api: FakeApi) -> None:
    deps = await leader(api)
    await sweep_stored(deps, set())
    assert api.requests == [("LIST", SECRETS)]


async def test_a_job_whose_stored_authority_is_lost_gets_derived_leaves(api: FakeApi) -> None:
    job = make_job({}, has_run())
    store(api, job, authority())
    await ensure_leaves(await leader(api, job), job, NETWORK, NOW)
    del api.objects[CA]
    issuance = await ensure_leaves(await leader(api, job), job, NETWORK, NOW)
    assert issuance.signer != "stored"
    root = certificate(api, "ca.crt")
    certificate(api, "worker.crt").verify_directly_issued_by(root)


async def test_a_secret_with_some_of_the_labels_is_named_and_ignored(
    api: FakeApi, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody else's: it ended the first listing, and the process with it."""
    job = make_job({}, has_run())
    store(api, job, authority())
    labels = api.objects[CA]["metadata"]["labels"]
    for name in (names.LABEL_KIND, names.LABEL_JOB):
        del labels[name]
    await leader(api, job)
    assert f"Secret trainyard-ca-{UID} is no authority" in caplog.text
    assert CA in api.objects


async def test_a_damaged_authority_is_named_and_ignored(
    api: FakeApi, caplog: pytest.LogCaptureFixture
) -> None:
    job = make_job({}, has_run())
    store(api, job, authority())
    api.objects[CA]["data"] = {}
    deps = await leader(api, job)
    assert f"Secret trainyard-ca-{UID} is no authority" in caplog.text
    assert (await ensure_leaves(deps, job, NETWORK, NOW)).signer != "stored"
    assert CA in api.objects
