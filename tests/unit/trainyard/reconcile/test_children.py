"""A job's Secrets: created once, renewed in time, and never of two authorities."""

from __future__ import annotations

import base64
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography import x509

from tests.support.dependencies import dependencies_of
from tests.support.fakeapi import FakeApi
from tests.support.federations import PARTIES, make_federation
from tests.support.jobs import NETWORK, NOW, coordinator, has_run, make_job
from trainyard.api.jobs import DistributedJob, FederatedJob
from trainyard.cluster.certificates import LEAF_LIFE, RENEW_AFTER
from trainyard.cluster.client import ApiError
from trainyard.reconcile.children import CHILDREN_INTERVAL, ensure_children
from trainyard.reconcile.state import ChildrenState

CA = "/api/v1/namespaces/trainyard-system/secrets/trainyard-ca-uid-of-digits"
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
def api() -> FakeApi:
    return FakeApi()


def certificate(secret: dict[str, Any], name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(base64.b64decode(secret["data"][name]))


def assert_one_authority(api: FakeApi) -> None:
    root = certificate(api.objects[CA], "ca.crt")
    assert certificate(api.objects[LEAVES], "ca.crt") == root
    for role in ("coordinator", "worker"):
        certificate(api.objects[LEAVES], f"{role}.crt").verify_directly_issued_by(root)


async def test_a_new_jobs_secrets_cost_two_requests(api: FakeApi) -> None:
    operator = Operator(api)
    await operator.ensure(make_job())
    await operator.ensure(make_job())
    assert sorted(api.requests) == [("POST", p) for p in sorted((CA, LEAVES))]
    assert_one_authority(api)


async def test_the_authoritys_key_stays_in_the_operators_namespace(api: FakeApi) -> None:
    await Operator(api).ensure(make_job())
    key = api.objects[CA]["data"]["ca.key"]
    others = {path: body for path, body in api.objects.items() if path != CA}
    assert key not in str(others)


async def test_a_restarted_operator_leaves_the_leaves_that_pods_hold(api: FakeApi) -> None:
    await Operator(api).ensure(make_job())
    before = api.objects[LEAVES]
    await Operator(api, NOW + timedelta(days=1)).ensure(make_job(status=has_run()))
    assert api.objects[LEAVES] is before
    assert_one_authority(api)


async def test_leaves_are_renewed_in_time_by_the_same_authority(api: FakeApi) -> None:
    operator = Operator(api)
    await operator.ensure(make_job())
    root = certificate(api.objects[CA], "ca.crt")
    operator.now = NOW + RENEW_AFTER
    await operator.ensure(make_job(status=has_run()))
    assert certificate(api.objects[CA], "ca.crt") == root
    renewed = certificate(api.objects[LEAVES], "worker.crt")
    assert renewed.not_valid_after_utc == operator.now + LEAF_LIFE
    assert_one_authority(api)
    requests = len(api.requests)
    await operator.ensure(make_job(status=has_run()))
    assert len(api.requests) == requests


async def test_leaves_are_replaced_when_the_authority_was_lost(api: FakeApi) -> None:
    """They were not: the operator could not connect to that job's coordinator any more."""
    await Operator(api).ensure(make_job())
    del api.objects[CA]
    await Operator(api).ensure(make_job(status=has_run()))
    assert_one_authority(api)


async def test_leaves_of_an_earlier_job_of_the_same_name_are_replaced(api: FakeApi) -> None:
    api.objects[LEAVES] = {"metadata": {}, "data": {}}
    await Operator(api).ensure(make_job())
    assert_one_authority(api)


async def test_two_operators_at_once_use_one_authority(api: FakeApi) -> None:
    first, second = Operator(api), Operator(api)
    await first.deps.authorities.ensure(make_job(), NOW)
    made = await second.deps.authorities.ensure(make_job(), NOW)
    assert made.pair == (await first.deps.authorities.ensure(make_job(), NOW)).pair


async def test_the_authority_of_a_job_that_is_gone_is_deleted(api: FakeApi) -> None:
    operator = Operator(api)
    await operator.ensure(make_job())
    owners = [o async for o in operator.deps.authorities.list_owners()]
    assert owners == [("uid-of-digits", make_job().key)]
    await operator.deps.authorities.delete("uid-of-digits")
    assert CA not in api.objects
    assert await operator.deps.authorities.find("uid-of-digits") is None


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
    await Operator(api).ensure(make_federation())
    assert sorted(api.requests) == [("POST", p) for p in sorted((CA, LEAVES))]
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


async def test_leaves_are_replaced_when_the_authority_is_lost_while_the_operator_runs(
    api: FakeApi,
) -> None:
    operator = Operator(api)
    await operator.ensure(make_job())
    await operator.deps.authorities.delete("uid-of-digits")
    operator.now += CHILDREN_INTERVAL
    await operator.ensure(make_job(status=has_run()))
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


async def test_leaves_are_replaced_even_if_the_operator_dies_after_a_new_authority(
    api: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    await Operator(api).ensure(make_job())
    del api.objects[CA]
    with monkeypatch.context() as dying:
        dying.setattr(api, "apply", _cut_off)
        with pytest.raises(ApiError):
            await Operator(api).ensure(make_job(status=has_run()))
    await Operator(api).ensure(make_job(status=has_run()))
    assert_one_authority(api)
    renewed_leaves = api.objects[LEAVES]
    await Operator(api).ensure(make_job(status=has_run()))
    assert api.objects[LEAVES] is renewed_leaves


async def _cut_off(*_: Any, **__: Any) -> None:
    raise ApiError(0, "Unreachable", "")


async def test_a_full_quota_does_not_hide_an_existing_authority(api: FakeApi) -> None:
    """As when the operator dies between a job's authority and its first coordinator."""
    await Operator(api).ensure(make_job())
    root, api.is_full = api.objects[CA], True
    successor = Operator(api)
    with pytest.raises(ApiError, match="quota"):  # of its job's namespace, which is full as well
        await successor.ensure(make_job())
    await successor.ensure(make_job())
    assert api.objects[CA] == root
    assert_one_authority(api)


async def test_a_full_quota_is_reported(api: FakeApi) -> None:
    api.is_full = True
    with pytest.raises(ApiError, match="quota"):
        await Operator(api).ensure(make_job())


async def test_leaves_of_an_earlier_job_are_replaced_once_the_authority_is_stored(
    api: FakeApi,
) -> None:
    await Operator(api).ensure(make_job())
    del api.objects[CA]  # as if the job before this one had the same name
    await Operator(api).ensure(make_job())
    assert_one_authority(api)


async def test_an_authority_without_leaves_signs_them(api: FakeApi) -> None:
    await Operator(api).ensure(make_job())
    root = api.objects[CA]
    del api.objects[LEAVES]  # as if an operator had died between the two
    await Operator(api).ensure(make_job())
    assert api.objects[CA] == root
    assert_one_authority(api)
