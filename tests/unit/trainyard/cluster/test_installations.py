"""Which installations may act beside each other, and when one takes another's place."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from tests.support.fakeapi import FakeApi, Object
from trainyard.cluster import installations as module
from trainyard.cluster.errors import ApiError
from trainyard.cluster.installations import (
    CONFIG_MAP,
    DURATION_SECONDS,
    HEARTBEAT_SECONDS,
    Installations,
    SecondInstallationError,
)

PATH = f"/api/v1/namespaces/kube-public/configmaps/{CONFIG_MAP}"
ALL: tuple[str, ...] = ()


class ConfigMaps(FakeApi):
    """Stores the ConfigMap with a resource version, and has a clock for all."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.version = 0

    async def create(self, path: str, body: Object) -> Object:
        return self._store(await super().create(path, body))

    async def request(self, method: str, path: str, **options: Any) -> Object:
        assert method == "PUT"
        body: Object = options["body"]
        stored = self.objects[path]["metadata"]["resourceVersion"]
        if stored != body["metadata"]["resourceVersion"]:
            raise ApiError(409, "Conflict", "it has been modified")
        return self._store(body)

    def _store(self, body: Object) -> Object:
        self.version += 1
        meta = {**body["metadata"], "resourceVersion": str(self.version)}
        self.objects[PATH] = {**body, "metadata": meta}
        return self.objects[PATH]

    def installation(self, name: str, namespaces: tuple[str, ...]) -> Installations:
        return Installations(self.client, "kube-public", name, namespaces, lambda: self.now)

    @property
    def recorded(self) -> set[str]:
        return set(self.objects[PATH]["data"])


@pytest.fixture
def api() -> ConfigMaps:
    return ConfigMaps()


async def test_the_first_installation_acts_at_once(api: ConfigMaps) -> None:
    first = api.installation("a", ALL)
    await first.renew()
    assert first.confirmed.is_set()
    assert api.recorded == {"a"}


@pytest.mark.parametrize(
    ("served", "others"),
    [(ALL, ALL), (ALL, ("x",)), (("x",), ALL), (("x", "y"), ("y", "z"))],
)
async def test_a_second_installation_refuses_to_act_beside_a_living_one(
    api: ConfigMaps, served: tuple[str, ...], others: tuple[str, ...]
) -> None:
    first, second = api.installation("a", served), api.installation("b", others)
    await first.renew()
    await second.renew()
    assert not second.confirmed.is_set()
    assert api.recorded == {"a"}
    api.now += HEARTBEAT_SECONDS
    await first.renew()
    with pytest.raises(SecondInstallationError, match="the installation a serves") as caught:
        await second.renew()
    assert "watchNamespaces" in str(caught.value)
    await first.renew()
    assert api.recorded == {"a"}


async def test_installations_of_different_namespaces_act_beside_each_other(
    api: ConfigMaps,
) -> None:
    both = [api.installation("a", ("x",)), api.installation("b", ("y", "z"))]
    for _ in range(10):
        for installation in both:
            await installation.renew()
            assert installation.confirmed.is_set()
        api.now += HEARTBEAT_SECONDS
    assert api.recorded == {"a", "b"}


async def test_an_installation_that_is_gone_is_succeeded(api: ConfigMaps) -> None:
    await api.installation("a", ALL).renew()
    second = api.installation("b", ALL)
    waited = 0.0
    while not second.confirmed.is_set():
        await second.renew()
        api.now += HEARTBEAT_SECONDS
        waited += HEARTBEAT_SECONDS
    assert DURATION_SECONDS <= waited <= DURATION_SECONDS + 2 * HEARTBEAT_SECONDS
    assert api.recorded == {"b"}


async def test_an_installation_that_returns_after_it_was_succeeded_gives_way(
    api: ConfigMaps,
) -> None:
    first, second = api.installation("a", ALL), api.installation("b", ALL)
    await first.renew()
    await second.renew()
    api.now += DURATION_SECONDS  # the first one is cut off
    await second.renew()
    assert second.confirmed.is_set()
    with pytest.raises(SecondInstallationError):
        await first.renew()
    api.now += HEARTBEAT_SECONDS
    await second.renew()
    assert api.recorded == {"b"}


async def test_the_next_leader_of_an_installation_acts_at_once(api: ConfigMaps) -> None:
    for _ in range(3):
        leader = api.installation("a", ALL)
        await leader.renew()
        assert leader.confirmed.is_set()


async def test_only_one_of_two_that_start_at_once_acts(api: ConfigMaps) -> None:
    first, second = api.installation("a", ALL), api.installation("b", ALL)
    results = await asyncio.gather(first.renew(), second.renew(), return_exceptions=True)
    assert [first.confirmed.is_set(), second.confirmed.is_set()].count(True) == 1, results


async def test_a_record_that_cannot_be_read_is_dropped(api: ConfigMaps) -> None:
    await api.installation("a", ("x",)).renew()
    api.objects[PATH]["data"]["odd"] = "{"
    await api.installation("b", ("y",)).renew()
    assert api.recorded == {"a", "b"}


@pytest.mark.parametrize("status", [403, 404])
async def test_an_operator_without_the_right_acts_and_says_so(
    caplog: pytest.LogCaptureFixture, status: int
) -> None:
    class Forbidden(ConfigMaps):
        async def create(self, path: str, body: Object) -> Object:
            raise ApiError(status, "", f"no right over {path}: {body['metadata']['name']}")

    installation = Forbidden().installation("a", ALL)
    with caplog.at_level(logging.WARNING):
        await installation.run()
    assert installation.confirmed.is_set()
    assert "no right over" in caplog.text


async def test_a_record_is_renewed_again_and_again_and_after_conflicts(
    api: ConfigMaps, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HEARTBEAT_SECONDS", 0.001)
    monkeypatch.setattr(module, "CONFLICT_SECONDS", 0.001)
    both = [api.installation("a", ("x",)), api.installation("b", ("y",))]
    tasks = [asyncio.create_task(installation.run()) for installation in both]
    while api.version < 20:
        await asyncio.sleep(0.001)
    assert api.recorded == {"a", "b"}
    for task in tasks:
        task.cancel()
