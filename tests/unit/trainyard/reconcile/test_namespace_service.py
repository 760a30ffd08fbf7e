"""The Service of a namespace: one request for all its jobs, and never somebody else's."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

import pytest

from tests.support.fakeapi import FakeApi, Object
from tests.support.jobs import NOW
from trainyard.cluster.errors import ApiError
from trainyard.reconcile.namespace_service import SERVICE_INTERVAL, NamespaceServices
from trainyard.render.network import namespace_service

PATH = "/api/v1/namespaces/team/services/trainyard"
FOREIGN: Object = {
    "metadata": {"name": "trainyard", "namespace": "team", "labels": {"app": "theirs"}},
    "spec": {"clusterIP": "10.0.0.7", "selector": {"app": "theirs"}},
}
JOBS = 500


class SlowApi(FakeApi):
    """Answers once others have had their turn, as a server does."""

    async def get(self, path: str, **options: Any) -> Object:
        await asyncio.sleep(0.01)
        return await super().get(path, **options)

    async def create(self, path: str, body: Object) -> Object:
        await asyncio.sleep(0.01)
        return await super().create(path, body)


class Clock:
    """A time that tests move."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def api() -> SlowApi:
    return SlowApi()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def services(api: SlowApi, clock: Clock) -> NamespaceServices:
    return NamespaceServices(api.client, clock)


async def test_all_jobs_of_a_namespace_share_the_requests(
    api: SlowApi, services: NamespaceServices
) -> None:
    await asyncio.gather(*(services.ensure("team", "trainyard") for _ in range(JOBS)))
    assert api.requests == [("GET", PATH), ("POST", PATH)]
    assert api.objects == {PATH: namespace_service("team", "trainyard")}
    await services.ensure("team", "trainyard")
    assert len(api.requests) == 2


async def test_each_namespace_and_each_name_has_a_service_of_its_own(
    api: SlowApi, services: NamespaceServices
) -> None:
    wanted = [("team", "trainyard"), ("team", "other"), ("lab", "trainyard")]
    await asyncio.gather(*(services.ensure(*key) for key in wanted))
    made = {(o["metadata"]["namespace"], o["metadata"]["name"]) for o in api.objects.values()}
    assert made == set(wanted)


async def test_an_existing_service_of_ours_is_only_read(
    api: SlowApi, services: NamespaceServices
) -> None:
    """A quota counts a creation before the server sees that the object exists, and refuses it."""
    api.objects[PATH] = ours = namespace_service("team", "trainyard")
    api.is_full = True
    await services.ensure("team", "trainyard")
    assert api.objects[PATH] is ours
    assert api.requests == [("GET", PATH)]


async def test_a_service_that_was_deleted_comes_back_within_the_interval(
    api: SlowApi, services: NamespaceServices, clock: Clock
) -> None:
    await services.ensure("team", "trainyard")
    del api.objects[PATH]
    assert services.valid_until("team", "trainyard") == NOW + SERVICE_INTERVAL
    clock.now += SERVICE_INTERVAL
    await services.ensure("team", "trainyard")
    assert PATH in api.objects


async def test_a_service_of_somebody_else_is_refused_untouched_until_it_is_gone(
    api: SlowApi, services: NamespaceServices
) -> None:
    api.objects[PATH] = FOREIGN
    jobs = [services.ensure("team", "trainyard") for _ in range(JOBS)]
    results = await asyncio.gather(*jobs, return_exceptions=True)
    assert {str(error) for error in results if isinstance(error, ApiError)} == {str(results[0])}
    assert len([error for error in results if isinstance(error, ApiError)]) == JOBS
    assert api.requests == [("GET", PATH)]
    assert api.objects[PATH] is FOREIGN
    assert services.valid_until("team", "trainyard") is None
    del api.objects[PATH]
    await services.ensure("team", "trainyard")
    assert api.objects[PATH] == namespace_service("team", "trainyard")


async def test_an_error_is_not_remembered(api: SlowApi, services: NamespaceServices) -> None:
    api.is_full = True
    with pytest.raises(ApiError, match="quota"):
        await services.ensure("team", "trainyard")
    api.is_full = False
    await services.ensure("team", "trainyard")
    assert PATH in api.objects


class RacedApi(SlowApi):
    """Somebody creates the Service between the two requests, or the answer to ours was lost."""

    def __init__(self, existing: Object) -> None:
        super().__init__()
        self.existing = existing

    async def create(self, path: str, body: Object) -> Object:
        self.objects[PATH] = self.existing
        return await super().create(path, body)


async def test_a_creation_that_conflicts_is_decided_by_whose_service_it_is(clock: Clock) -> None:
    ours = RacedApi(namespace_service("team", "trainyard"))
    await NamespaceServices(ours.client, clock).ensure("team", "trainyard")
    theirs = RacedApi(FOREIGN)
    with pytest.raises(ApiError, match="not of this operator"):
        await NamespaceServices(theirs.client, clock).ensure("team", "trainyard")


class RefusedApi(SlowApi):
    """Refuses to read Services, as RBAC does."""

    async def get(self, path: str, **_: Any) -> Object:
        raise ApiError(403, "Forbidden", f"{path} is forbidden")


async def test_a_service_that_may_not_be_read_is_not_created(clock: Clock) -> None:
    api = RefusedApi()
    with pytest.raises(ApiError, match="is forbidden"):
        await NamespaceServices(api.client, clock).ensure("team", "trainyard")
    assert api.requests == []


async def test_one_cancelled_reconcile_does_not_take_the_request_from_the_others(
    api: SlowApi, services: NamespaceServices
) -> None:
    first, second = (asyncio.create_task(services.ensure("team", "trainyard")) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await second
    assert first.cancelled()
    assert api.requests == [("GET", PATH), ("POST", PATH)]


async def test_an_error_that_nobody_waits_for_is_not_reported_as_lost(
    api: SlowApi, services: NamespaceServices, caplog: pytest.LogCaptureFixture
) -> None:
    api.objects[PATH] = FOREIGN
    lonely = asyncio.create_task(services.ensure("team", "trainyard"))
    await asyncio.sleep(0)
    lonely.cancel()
    await asyncio.sleep(0.05)
    assert api.requests == [("GET", PATH)]
    assert caplog.records == []


async def test_a_forgotten_namespace_is_read_again(
    api: SlowApi, services: NamespaceServices
) -> None:
    await services.ensure("team", "trainyard")
    await services.ensure("lab", "trainyard")
    services.forget("team")
    counted: list[Any] = [services.valid_until(name, "trainyard") for name in ("team", "lab")]
    assert counted == [None, NOW + SERVICE_INTERVAL]
    api.objects.clear()
    await services.ensure("team", "trainyard")
    assert list(api.objects) == [PATH]
