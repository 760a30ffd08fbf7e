"""The master secret: created once, never overwritten, and refused where it cannot be right."""

from __future__ import annotations

import base64
from datetime import timedelta
from typing import Any

import pytest

from tests.support.fakeapi import FakeApi
from tests.support.jobs import NOW
from trainyard.cluster.errors import ApiError
from trainyard.cluster.master import MasterError, MasterStore, new_version

PATH = "/api/v1/namespaces/trainyard-system/secrets/trainyard-master"
NAME = "20260701T120000Z"


@pytest.fixture
def api() -> FakeApi:
    return FakeApi()


@pytest.fixture
def store(api: FakeApi) -> MasterStore:
    return MasterStore(api.client, "trainyard-system")


def stored(data: dict[str, bytes], **meta: Any) -> dict[str, Any]:
    labels = {"app.kubernetes.io/managed-by": "trainyard"}
    encoded = {name: base64.b64encode(value).decode() for name, value in data.items()}
    return {"metadata": {"name": "trainyard-master", "labels": labels, **meta}, "data": encoded}


async def test_the_first_master_has_one_random_version_named_after_its_moment(
    api: FakeApi, store: MasterStore
) -> None:
    master = await store.ensure(NOW)
    [version] = master.versions
    assert (version.name, version.begins_at) == (NAME, NOW)
    assert len(version.secret) == 32
    assert api.objects[PATH]["metadata"]["labels"] == {"app.kubernetes.io/managed-by": "trainyard"}
    assert version.secret != new_version(NOW).secret


async def test_a_master_that_is_there_is_read_and_not_written(
    api: FakeApi, store: MasterStore
) -> None:
    made = await store.ensure(NOW)
    api.requests.clear()
    assert await store.ensure(NOW + timedelta(days=1)) == made
    assert api.requests == [("GET", PATH)]


class LateApi(FakeApi):
    """Another operator's master arrives between the first request and the second."""

    async def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        self.objects[PATH] = stored({NAME: b"o" * 32})
        return await super().create(path, body)


async def test_of_two_operators_at_once_both_use_the_one_that_was_stored() -> None:
    store = MasterStore(LateApi().client, "trainyard-system")
    [version] = (await store.ensure(NOW)).versions
    assert version.secret == b"o" * 32


async def test_versions_are_sorted_by_age(api: FakeApi, store: MasterStore) -> None:
    api.objects[PATH] = stored({"20270101T000000Z": b"n" * 32, NAME: b"o" * 32})
    master = await store.ensure(NOW)
    assert [version.secret[:1] for version in master.versions] == [b"o", b"n"]
    assert master.newest.name == "20270101T000000Z"


MALFORMED = {
    "not a moment": ({"key": b"x" * 32}, "'key'.*such as 20261128T215000Z: remove that key"),
    "an impossible moment": ({"20261328T215000Z": b"x" * 32}, "'20261328T215000Z'"),
    "a moment of fewer digits": ({"2026118T215000Z": b"x" * 32}, "'2026118T215000Z'"),
    "a short value": ({NAME: b"x" * 31}, f"31 bytes under '{NAME}', not 32: restore that value"),
    "an empty value": ({NAME: b""}, f"0 bytes under '{NAME}'"),
    "one wrong beside a right one": ({NAME: b"x" * 32, "b": b"x" * 32}, "'b'"),
    "nothing": ({}, "holds no version: delete it"),
}


@pytest.mark.parametrize("case", MALFORMED)
async def test_a_malformed_master_is_refused_by_name_and_not_overwritten(
    case: str, api: FakeApi, store: MasterStore
) -> None:
    data, message = MALFORMED[case]
    api.objects[PATH] = before = stored(data)
    with pytest.raises(MasterError, match=f"^Secret trainyard-system/trainyard-master .*{message}"):
        await store.ensure(NOW)
    assert api.objects[PATH] is before
    assert [method for method, _ in api.requests] == ["GET"]


async def test_no_error_contains_a_secret(api: FakeApi, store: MasterStore) -> None:
    api.objects[PATH] = stored({NAME: b"topsecret"})
    with pytest.raises(MasterError) as caught:
        await store.ensure(NOW)
    shown = repr(caught.value) + repr(new_version(NOW))
    assert "topsecret" not in shown
    assert base64.b64encode(b"topsecret").decode() not in shown
    assert "secret=" not in shown


@pytest.mark.parametrize("labels", [{}, {"app.kubernetes.io/managed-by": "Helm"}])
async def test_somebody_elses_secret_of_that_name_is_refused(
    labels: dict[str, str], api: FakeApi, store: MasterStore
) -> None:
    api.objects[PATH] = before = stored({NAME: b"x" * 32}, labels=labels)
    with pytest.raises(MasterError, match=r"not Trainyard's.*rename or delete it"):
        await store.ensure(NOW)
    assert api.objects[PATH] is before


async def test_a_rotation_adds_a_version_and_takes_back_the_request_at_once(
    api: FakeApi, store: MasterStore
) -> None:
    annotations = {"trainyard.dev/rotate": "now", "example.com/theirs": "stays"}
    api.objects[PATH] = stored({NAME: b"x" * 32}, annotations=annotations)
    master = await store.ensure(NOW)
    assert master.is_rotation_requested
    rotated = await store.rotate(master, NOW + timedelta(days=30))
    assert [v.name for v in rotated.versions] == [NAME, "20260731T120000Z"]
    assert api.objects[PATH]["metadata"]["annotations"] == {"example.com/theirs": "stays"}
    assert await store.ensure(NOW) == rotated
    retired = await store.retire(rotated)
    assert retired.versions == rotated.versions[1:]
    assert await store.ensure(NOW) == retired


async def test_a_version_sorts_after_those_that_begin_in_the_future(
    api: FakeApi, store: MasterStore
) -> None:
    api.objects[PATH] = stored({"20270101T000000Z": b"x" * 32})
    rotated = await store.rotate(await store.ensure(NOW), NOW)
    assert rotated.newest.name == "20270101T000001Z"


async def test_a_master_that_was_changed_meanwhile_is_not_overwritten(
    api: FakeApi, store: MasterStore
) -> None:
    first = await store.ensure(NOW)
    second = await store.rotate(first, NOW)
    for step in (store.rotate(first, NOW), store.retire(first)):
        with pytest.raises(ApiError) as caught:
            await step
        assert caught.value.is_conflict
    assert await store.ensure(NOW) == second


def test_two_versions_of_one_moment_are_told_apart() -> None:
    """As when a master is deleted, and another created, within one second."""
    first, second = new_version(NOW), new_version(NOW)
    assert first.name == second.name
    assert first.identifier != second.identifier
