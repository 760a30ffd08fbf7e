"""A job's leaf Secret: created once, renewed in time, and never of two authorities."""

from __future__ import annotations

import base64
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tests.support.dependencies import dependencies_of
from tests.support.fakeapi import FakeApi
from tests.support.federations import PARTIES, make_federation
from tests.support.jobs import NETWORK, NOW, UID, coordinator, has_run, make_job
from trainyard.api.jobs import DistributedJob, FederatedJob
from trainyard.cluster.certificates import LEAF_LIFE, RENEW_AFTER
from trainyard.cluster.derivation import derive_authority
from trainyard.cluster.errors import ApiError
from trainyard.cluster.master import MasterVersion
from trainyard.reconcile.children import CHILDREN_INTERVAL, ensure_children
from trainyard.reconcile.state import ChildrenState

MASTER = "/api/v1/namespaces/trainyard-system/secrets/trainyard-master"
LEAVES = "/api/v1/namespaces/team/secrets/digits-trainyard-tls"


class Operator:
    """One operator process; another starts without its state."""

    def __init__(self, api: FakeApi, now: datetime = NOW) -> None:
        self.now = now
        self.deps = dependencies_of(api, clock=lambda: self.now)
        self.state = ChildrenState()
        self.network = NETWORK

    async def ensure(self, job: DistributedJob | FederatedJob) -> None:
        if job.status.term:
            self.deps.cache.put_pod(replace(coordinator(job.status.term), job=job.key))
        await ensure_children(self.deps, job, self.state, self.network)


@pytest.fixture
async def api() -> FakeApi:
    """With a master, as the first resync of any operator leaves it."""
    made = FakeApi()
    await Operator(made).deps.authorities.master(NOW)
    made.requests.clear()
    return made


def certificate(secret: dict[str, Any], name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(base64.b64decode(secret["data"][name]))


def assert_one_authority(api: FakeApi) -> None:
    root = certificate(api.objects[LEAVES], "ca.crt")
    assert root == derived(api)
    for role in ("coordinator", "worker"):
        certificate(api.objects[LEAVES], f"{role}.crt").verify_directly_issued_by(root)


def derived(api: FakeApi) -> x509.Certificate:
    """The certificate of the job's authority under the only version of the master."""
    [(name, secret)] = api.objects[MASTER]["data"].items()
    version = MasterVersion(name=name, secret=base64.b64decode(secret))
    return derive_authority(version, make_job().key, UID).certificate


async def test_a_new_jobs_secret_costs_one_request(api: FakeApi) -> None:
    operator = Operator(api)
    await operator.deps.authorities.master(NOW)
    api.requests.clear()
    await operator.ensure(make_job())
    await operator.ensure(make_job())
    assert sorted(api.requests) == [("POST", p) for p in (LEAVES,)]
    assert_one_authority(api)


async def test_neither_master_nor_authoritys_key_leaves_the_operators_namespace(
    api: FakeApi,
) -> None:
    await Operator(api).ensure(make_job())
    others = {path: body for path, body in api.objects.items() if path != MASTER}
    [secret] = api.objects[MASTER]["data"].values()
    assert secret not in str(others)
    files = api.objects[LEAVES]["data"]
    keys = [base64.b64decode(files[name]) for name in files if name.endswith(".key")]
    public = [load_pem_private_key(key, None).public_key() for key in keys]
    assert len(keys) == 2
    assert derived(api).public_key() not in public


async def test_a_restarted_operator_leaves_the_leaves_that_pods_hold(api: FakeApi) -> None:
    await Operator(api).ensure(make_job())
    before = api.objects[LEAVES]
    await Operator(api, NOW + timedelta(days=1)).ensure(make_job(status=has_run()))
    assert api.objects[LEAVES] is before
    assert_one_authority(api)


async def test_leaves_are_renewed_in_time_by_the_same_authority(api: FakeApi) -> None:
    operator = Operator(api)
    await operator.ensure(make_job())
    root = certificate(api.objects[LEAVES], "ca.crt")
    operator.now = NOW + RENEW_AFTER
    await operator.ensure(make_job(status=has_run()))
    assert certificate(api.objects[LEAVES], "ca.crt") == root
    renewed = certificate(api.objects[LEAVES], "worker.crt")
    assert renewed.not_valid_after_utc == operator.now + LEAF_LIFE
    assert_one_authority(api)
    requests = len(api.requests)
    await operator.ensure(make_job(status=has_run()))
    assert len(api.requests) == requests


async def test_leaves_are_replaced_when_the_master_was_lost(api: FakeApi) -> None:
    """They were not: the operator could not connect to that job's coordinator any more."""
    await Operator(api).ensure(make_job())
    del api.objects[MASTER]
    await Operator(api).ensure(make_job(status=has_run()))
    assert_one_authority(api)


async def test_leaves_of_an_earlier_job_of_the_same_name_are_replaced(api: FakeApi) -> None:
    await Operator(api).ensure(make_job(uid="earlier"))
    earlier = certificate(api.objects[LEAVES], "ca.crt")
    await Operator(api).ensure(make_job())
    assert certificate(api.objects[LEAVES], "ca.crt") != earlier
    [owner] = api.objects[LEAVES]["metadata"]["ownerReferences"]
    assert owner["uid"] == UID
    assert_one_authority(api)


async def test_two_operators_at_once_use_one_authority() -> None:
    api = FakeApi()
    first, second = Operator(api), Operator(api)
    for operator in (first, second):
        await operator.deps.authorities.master(NOW)
    key = make_job().key
    made = [await o.deps.authorities.of_job(key, UID, NOW) for o in (first, second)]
    assert made[0].bundle == made[1].bundle


def identities(api: FakeApi) -> dict[str, str]:
    """The URI names of the leaves, by their owner."""
    found = {}
    for file in api.objects[LEAVES]["data"]:
        owner, _, suffix = file.rpartition(".")
        if suffix == "crt" and owner != "ca":
            names = certificate(api.objects[LEAVES], file).extensions
            alternatives = names.get_extension_for_class(x509.SubjectAlternativeName).value
            [found[owner]] = alternatives.get_values_for_type(x509.UniformResourceIdentifier)
    return found


def with_party(name: str, status: dict[str, Any] | None = None) -> FederatedJob:
    return make_federation({"parties": [{"name": n} for n in (*PARTIES, name)]}, status)


async def test_each_party_has_a_leaf_of_its_own_at_no_more_requests(api: FakeApi) -> None:
    operator = Operator(api)
    await operator.deps.authorities.master(NOW)
    api.requests.clear()
    await operator.ensure(make_federation())
    assert sorted(api.requests) == [("POST", p) for p in (LEAVES,)]
    assert identities(api) == {
        "coordinator": "trainyard://team/digits/coordinator",
        **{f"party-{name}": f"trainyard://team/digits/party/{name}" for name in PARTIES},
    }


async def test_a_party_that_joins_gets_a_leaf(api: FakeApi) -> None:
    operator = Operator(api)
    await operator.ensure(make_federation())
    await operator.ensure(with_party("dan", has_run()))
    assert identities(api)["party-dan"] == "trainyard://team/digits/party/dan"
    api.requests.clear()
    await operator.ensure(with_party("dan", has_run()))
    assert api.requests == []


async def test_a_restarted_operator_knows_which_party_has_no_leaf_yet(api: FakeApi) -> None:
    await Operator(api).ensure(make_federation())
    await Operator(api).ensure(with_party("dan", has_run()))
    assert "party-dan" in identities(api)
    before = api.objects[LEAVES]
    await Operator(api).ensure(with_party("dan", has_run()))
    assert api.objects[LEAVES] is before


async def test_deleted_leaves_are_restored_within_the_interval_and_others_stay(
    api: FakeApi,
) -> None:
    """They were only restored by their renewal: until then no new pod of the job could start."""
    operator = Operator(api)
    await operator.ensure(make_job())
    before = api.objects[LEAVES]
    operator.now += CHILDREN_INTERVAL
    await operator.ensure(make_job(status=has_run()))
    assert api.objects[LEAVES] is before
    del api.objects[LEAVES]
    operator.now += CHILDREN_INTERVAL
    await operator.ensure(make_job(status=has_run()))
    assert_one_authority(api)


async def test_leaves_are_replaced_when_the_master_is_lost_while_the_operator_runs(
    api: FakeApi,
) -> None:
    operator = Operator(api)
    await operator.ensure(make_job())
    before = derived(api)
    del api.objects[MASTER]
    operator.now += CHILDREN_INTERVAL
    await operator.deps.authorities.refresh(operator.now)
    await operator.ensure(make_job(status=has_run()))
    assert derived(api) != before
    assert_one_authority(api)


async def test_existing_children_are_never_created_again(api: FakeApi) -> None:
    """A quota counts a creation before the server sees that the object exists, and refuses it."""
    await Operator(api).ensure(make_job())
    api.requests.clear()
    successor = Operator(api)
    for _ in range(3):
        await successor.ensure(make_job(status=has_run()))
        successor.now += CHILDREN_INTERVAL
    assert {method for method, _ in api.requests} == {"GET", "PATCH"}


async def test_a_full_quota_does_not_hide_existing_leaves(api: FakeApi) -> None:
    """As when the operator dies between a job's Secret and its first coordinator."""
    await Operator(api).ensure(make_job())
    leaves, api.is_full = api.objects[LEAVES], True
    successor = Operator(api)
    await successor.ensure(make_job())
    await successor.ensure(make_job(status=has_run()))
    assert api.objects[LEAVES] is leaves
    assert_one_authority(api)


async def test_a_full_quota_is_reported(api: FakeApi) -> None:
    api.is_full = True
    with pytest.raises(ApiError, match="quota"):
        await Operator(api).ensure(make_job())
