"""The leaf Secret: one request for a new job, written when it is due, and never another's."""

from __future__ import annotations

import base64
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature

from tests.support.dependencies import dependencies_of
from tests.support.fakeapi import FakeApi
from tests.support.federations import make_federation
from tests.support.jobs import KEY, NETWORK, NOW, UID, has_run, make_job
from trainyard.api.jobs import Job
from trainyard.cluster.certificates import RENEW_AFTER
from trainyard.cluster.errors import ApiError
from trainyard.reconcile.dependencies import Dependencies
from trainyard.reconcile.leaves import create_leaves, ensure_leaves

MASTER = "/api/v1/namespaces/trainyard-system/secrets/trainyard-master"
LEAVES = "/api/v1/namespaces/team/secrets/digits-trainyard-tls"
RECORD = "trainyard.dev/certificates"


@pytest.fixture
def api() -> FakeApi:
    return FakeApi()


async def an_operator(api: FakeApi, *jobs: Job, **others: Any) -> Dependencies:
    """An operator that has read the master; it starts without a request."""
    made = dependencies_of(api, *jobs, **others)
    await made.authorities.refresh(NOW)
    api.requests.clear()
    return made


def certificate(api: FakeApi, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(base64.b64decode(api.objects[LEAVES]["data"][name]))


async def test_a_new_job_costs_one_creation(api: FakeApi) -> None:
    deps = await an_operator(api)
    issuance = await create_leaves(deps, make_job(), NETWORK, NOW)
    assert api.requests == [("POST", LEAVES)]
    assert issuance.issued_at == NOW


async def test_a_successor_that_finds_the_leaves_right_writes_nothing(api: FakeApi) -> None:
    issuance = await create_leaves(await an_operator(api), make_job(), NETWORK, NOW)
    before = api.objects[LEAVES]
    successor = await an_operator(api)
    assert await ensure_leaves(successor, make_job(), NETWORK, NOW + timedelta(days=1)) == issuance
    assert api.requests == [("PATCH", LEAVES)]
    assert api.objects[LEAVES] is before


async def test_a_creation_that_was_answered_too_late_changes_nothing(api: FakeApi) -> None:
    """The operator died before the answer: its successor finds the Secret of this very job."""
    issuance = await create_leaves(await an_operator(api), make_job(), NETWORK, NOW)
    before = api.objects[LEAVES]
    successor = await an_operator(api)
    assert (
        await create_leaves(successor, make_job(), NETWORK, NOW + timedelta(minutes=1)) == issuance
    )
    assert api.objects[LEAVES] is before


async def test_leaves_that_were_deleted_are_created_again(api: FakeApi) -> None:
    deps = await an_operator(api)
    await create_leaves(deps, make_job(), NETWORK, NOW)
    del api.objects[LEAVES]
    await ensure_leaves(deps, make_job(status=has_run()), NETWORK, NOW)
    assert LEAVES in api.objects


RECORDS = {
    "none": None,
    "nonsense": "nonsense",
    "of the future": (
        '{"signer":"v","trusted":["v"],"trustedSince":"2999-01-01T00:00:00Z",'
        '"issuedAt":"2999-01-01T00:00:00Z","names":""}'
    ),
}


@pytest.mark.parametrize("case", RECORDS)
async def test_leaves_without_a_plausible_record_are_written_again(case: str, api: FakeApi) -> None:
    deps = await an_operator(api)
    await create_leaves(deps, make_job(), NETWORK, NOW)
    record = RECORDS[case]
    api.objects[LEAVES]["metadata"]["annotations"] = {} if record is None else {RECORD: record}
    api.objects[LEAVES]["data"] = {}
    await ensure_leaves(deps, make_job(status=has_run()), NETWORK, NOW)
    assert sorted(api.objects[LEAVES]["data"]) == [
        *("ca.crt", "coordinator.crt", "coordinator.key", "worker.crt", "worker.key")
    ]
    assert RECORD in api.objects[LEAVES]["metadata"]["annotations"]


async def test_another_cluster_domain_names_the_coordinator_anew(api: FakeApi) -> None:
    await create_leaves(await an_operator(api), make_job(), NETWORK, NOW)
    network = replace(NETWORK, cluster_domain="cluster.example")
    await ensure_leaves(await an_operator(api), make_job(status=has_run()), network, NOW)
    alternatives = certificate(api, "coordinator.crt").extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    hosts = alternatives.value.get_values_for_type(x509.DNSName)
    assert hosts == list(network.certified_hosts(KEY))
    assert all(host.endswith(".cluster.example") for host in hosts)


async def test_files_of_a_party_that_left_go_with_it(api: FakeApi) -> None:
    deps = await an_operator(api)
    await create_leaves(deps, make_federation(), NETWORK, NOW)
    assert "party-cid.key" in api.objects[LEAVES]["data"]
    left = make_federation({"parties": [{"name": "ann"}, {"name": "bob"}]}, has_run())
    await ensure_leaves(deps, left, NETWORK, NOW)
    assert "party-bob.key" in api.objects[LEAVES]["data"]
    assert "party-cid.key" not in api.objects[LEAVES]["data"]


async def test_labels_and_annotations_of_others_survive_a_renewal(api: FakeApi) -> None:
    deps = await an_operator(api)
    await create_leaves(deps, make_job(), NETWORK, NOW)
    meta = api.objects[LEAVES]["metadata"]
    meta["labels"]["example.com/team"] = "vision"
    meta["annotations"]["example.com/note"] = "kept"
    await ensure_leaves(deps, make_job(status=has_run()), NETWORK, NOW + RENEW_AFTER)
    renewed = api.objects[LEAVES]["metadata"]
    assert renewed["labels"] == meta["labels"]
    assert renewed["annotations"]["example.com/note"] == "kept"
    assert renewed["annotations"][RECORD] != meta["annotations"][RECORD]


async def test_a_secret_that_was_replaced_meanwhile_is_not_overwritten(api: FakeApi) -> None:
    deps = await an_operator(api)
    await create_leaves(deps, make_job(), NETWORK, NOW)

    class Racing(FakeApi):
        async def metadata(self, path: str) -> dict[str, Any] | None:
            found = await super().metadata(path)
            self.objects[path] = {"metadata": {"resourceVersion": "77"}, "data": {}}
            return found

    racing = Racing()
    racing.objects = api.objects
    deps = await an_operator(racing)
    with pytest.raises(ApiError) as caught:
        await ensure_leaves(deps, make_job(status=has_run()), NETWORK, NOW + RENEW_AFTER)
    assert caught.value.is_conflict
    assert api.objects[LEAVES]["data"] == {}


def owned(kind: str, uid: str, group: str = "trainyard.dev/v1alpha1") -> dict[str, Any]:
    """A Secret with our label, and that controller."""
    owner = {"apiVersion": group, "kind": kind, "name": "digits", "uid": uid, "controller": True}
    labels = {"app.kubernetes.io/managed-by": "trainyard"}
    return {"metadata": {"labels": labels, "ownerReferences": [owner]}, "data": {"a": "b"}}


FOREIGN: dict[str, tuple[dict[str, Any], str]] = {
    "without a label": ({"metadata": {}, "data": {"a": "b"}}, "is not Trainyard's"),
    "of the other kind's job": (
        owned("FederatedJob", "uid-of-the-other"),
        "belongs to FederatedJob digits",
    ),
    "of another controller": (
        owned("ExternalSecret", "e", "external-secrets.io/v1"),
        "belongs to ExternalSecret digits",
    ),
}


@pytest.mark.parametrize("now", [NOW, NOW + RENEW_AFTER], ids=["at first", "at the renewal"])
@pytest.mark.parametrize("status", [{}, has_run()], ids=["new", "running"])
@pytest.mark.parametrize("case", FOREIGN)
async def test_somebody_elses_secret_is_refused_by_name_and_never_overwritten(
    case: str, status: dict[str, Any], now: datetime, api: FakeApi
) -> None:
    """It was: a job took over any Secret of that name."""
    secret, problem = FOREIGN[case]
    api.objects[LEAVES] = secret
    deps = await an_operator(api, make_federation(uid="uid-of-the-other"))
    ensure = ensure_leaves if status else create_leaves
    message = f"^Secret team/digits-trainyard-tls {problem}: delete it, or rename the job$"
    with pytest.raises(ApiError, match=message) as caught:
        await ensure(deps, make_job(status=status), NETWORK, now)
    assert not caught.value.is_transient
    assert api.objects[LEAVES] is secret
    assert secret["data"] == {"a": "b"}


async def test_the_secret_of_the_other_kinds_job_is_taken_once_that_job_is_gone(
    api: FakeApi,
) -> None:
    api.objects[LEAVES] = owned("FederatedJob", "uid-of-the-other")
    deps = await an_operator(api)
    await create_leaves(deps, make_job(), NETWORK, NOW)
    [owner] = api.objects[LEAVES]["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"]) == ("DistributedJob", UID)
    assert "a" not in api.objects[LEAVES]["data"]


async def test_a_secret_that_is_being_deleted_is_created_again_once_it_is_gone(
    api: FakeApi,
) -> None:
    """It was written into, and went with its finalizer: the job had none for up to an hour."""
    deps = await an_operator(api)
    api.objects[LEAVES] = owned("DistributedJob", "uid-of-an-earlier-one")
    api.objects[LEAVES]["metadata"]["deletionTimestamp"] = "2026-07-01T12:00:00Z"
    for ensure in (create_leaves, ensure_leaves):
        with pytest.raises(ApiError, match="is being deleted"):
            await ensure(deps, make_job(), NETWORK, NOW)
    assert api.objects[LEAVES]["data"] == {"a": "b"}
    del api.objects[LEAVES]
    await create_leaves(deps, make_job(), NETWORK, NOW)
    assert LEAVES in api.objects


async def test_the_leaves_of_an_earlier_job_are_no_use_to_the_one_of_its_name(
    api: FakeApi,
) -> None:
    deps = await an_operator(api)
    await create_leaves(deps, make_job(uid="earlier"), NETWORK, NOW)
    old, root = certificate(api, "worker.crt"), certificate(api, "ca.crt")
    await create_leaves(deps, make_job(), NETWORK, NOW)
    old.verify_directly_issued_by(root)
    with pytest.raises(InvalidSignature):
        old.verify_directly_issued_by(certificate(api, "ca.crt"))


async def test_a_master_that_cannot_be_used_shows_at_the_job(api: FakeApi) -> None:
    api.objects[MASTER] = {"metadata": {}, "data": {}}
    deps = dependencies_of(api)
    with pytest.raises(ApiError, match="trainyard-master is not Trainyard's"):
        await create_leaves(deps, make_job(), NETWORK, NOW)
    assert LEAVES not in api.objects
    del api.objects[MASTER]
    await create_leaves(deps, make_job(), NETWORK, NOW)
    assert LEAVES in api.objects
