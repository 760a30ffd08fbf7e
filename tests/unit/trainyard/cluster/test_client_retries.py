"""Which answers of the API server the client waits for, how long, and whom that delays."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web

from tests.unit.trainyard.cluster.test_client import Server, serving
from trainyard.cluster import client as client_module
from trainyard.cluster.client import RETRIES
from trainyard.cluster.errors import MAX_MESSAGE, ApiError
from trainyard.cluster.throttle import SLOTS, namespace_of
from trainyard_trainer.contract.text import printable


class Refusing(Server):
    """Refuses the first requests with a status of Kubernetes."""

    def __init__(self, times: int, status: int, reason: str, **headers: str) -> None:
        super().__init__()
        self._times, self._status, self._reason = times, status, reason
        self._headers = headers

    async def answer(self, request: web.Request) -> web.Response:
        await super().answer(request)
        if len(self.arrived) > self._times:
            return web.json_response({"kind": "Pod"})
        body = {"kind": "Status", "reason": self._reason, "message": "please try again"}
        return web.json_response(body, status=self._status, headers=self._headers)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses of the client, which take no time."""
    made: list[float] = []
    yield_once = asyncio.sleep

    async def sleep(seconds: float) -> None:
        if seconds:  # aiohttp only yields
            made.append(seconds)
        await yield_once(0)

    monkeypatch.setattr(client_module, "PAUSE_JITTER", 1.0)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    return made


async def test_a_throttled_request_waits_as_long_as_the_server_asks(pauses: list[float]) -> None:
    server = Refusing(2, 429, "TooManyRequests", **{"Retry-After": "7"})
    async with serving(server) as client:
        assert await client.create("/pods", {}) == {"kind": "Pod"}
    assert pauses == [7.0, 7.0]


@pytest.mark.parametrize("after", ["Wed, 21 Oct 2026 07:28:00 GMT", "-1", "soon"])
async def test_pauses_grow_where_the_server_names_no_seconds(
    pauses: list[float], after: str
) -> None:
    server = Refusing(4, 503, "ServiceUnavailable", **{"Retry-After": after})
    async with serving(server) as client:
        await client.get("/pods")
    assert pauses == [0.1, 0.2, 0.4, 0.8]


async def test_a_request_that_must_wait_too_long_fails_at_once(pauses: list[float]) -> None:
    """Its caller occupies a worker, and is requeued."""
    server = Refusing(9, 429, "TooManyRequests", **{"Retry-After": "3600"})
    async with serving(server) as client:
        with pytest.raises(ApiError, match="please try again") as caught:
            await client.get("/pods")
    assert caught.value.retry_after_seconds == 3600
    assert (len(server.arrived), pauses) == (1, [])


async def test_a_server_that_throttles_for_ever_is_given_up(pauses: list[float]) -> None:
    server = Refusing(99, 429, "TooManyRequests")
    async with serving(server) as client:
        with pytest.raises(ApiError):
            await client.get("/pods")
    assert (len(server.arrived), len(pauses)) == (RETRIES, RETRIES - 1)


async def test_a_creation_that_meets_a_busy_quota_is_repeated(pauses: list[float]) -> None:
    """It was taken for one whose object exists."""
    server = Refusing(1, 409, "Conflict")
    async with serving(server) as client:
        assert await client.create("/pods", {}) == {"kind": "Pod"}
    assert len(pauses) == 1


@pytest.mark.parametrize(
    ("method", "status", "reason"),
    [("POST", 409, "AlreadyExists"), ("PATCH", 409, "Conflict"), ("POST", 403, "Forbidden")],
)
async def test_other_refusals_are_not_repeated(
    pauses: list[float], method: str, status: int, reason: str
) -> None:
    server = Refusing(1, status, reason)
    async with serving(server) as client:
        with pytest.raises(ApiError) as caught:
            await client.request(method, "/pods", body={})
    assert caught.value.already_exists == (reason == "AlreadyExists")
    assert pauses == []


class Stuck(Server):
    """Answers no request of a namespace until it is released, as behind a slow webhook."""

    def __init__(self, namespace: str) -> None:
        super().__init__()
        self.released = asyncio.Event()
        self._namespace = namespace

    async def answer(self, request: web.Request) -> web.Response:
        answer = await super().answer(request)
        if f"/namespaces/{self._namespace}/" in request.path:
            await self.released.wait()
        return answer


async def test_requests_of_a_slow_namespace_delay_no_other() -> None:
    server = Stuck("slow")

    async def create(client: Any, namespace: str) -> None:
        await client.create(f"/api/v1/namespaces/{namespace}/pods", {})

    async with serving(server) as client, asyncio.TaskGroup() as group:
        slow = [group.create_task(create(client, "slow")) for _ in range(4 * SLOTS)]
        while not server.arrived:
            await asyncio.sleep(0.01)
        async with asyncio.timeout(30):
            for _ in range(3):
                await create(client, "honest")
        assert not any(task.done() for task in slow)
        server.released.set()


@pytest.mark.parametrize(
    ("path", "namespace"),
    [
        ("/api/v1/namespaces/team/pods", "team"),
        ("/apis/trainyard.dev/v1alpha1/namespaces/team/distributedjobs/a/status", "team"),
        ("/api/v1/namespaces/team", "team"),
        ("/api/v1/nodes", ""),
    ],
)
def test_the_namespace_of_a_request_is_in_its_path(path: str, namespace: str) -> None:
    assert namespace_of(path) == namespace


async def test_the_date_of_each_response_is_observed() -> None:
    dates: list[str] = []
    async with serving(Refusing(1, 403, "Forbidden", Date="x")) as client:
        client.on_date = dates.append
        with pytest.raises(ApiError):
            await client.get("/pods")
        await client.get("/pods")
    assert dates[0] == "x"
    assert len(dates) == 2


@pytest.mark.parametrize(
    "body",
    [
        b'{"reason": "Forbidden", "message": "\\u001b[2J no \\u202egnp"}',
        b'{"reason": null, "message": 3}',
        b'{"message": "\\ud800"}',
        b'{"message": "\xed\xa0\x80"}',
        b"\xff\xfe<html>\x1b",
        b"[]",
        b'{"message": "' + b"x" * 100_000 + b'"}',
    ],
)
async def test_a_refusal_may_hold_anything(body: bytes) -> None:
    """A user's webhook writes it, and it is shown in statuses and logs."""

    class Odd(Server):
        async def answer(self, request: web.Request) -> web.Response:
            await super().answer(request)
            return web.Response(body=body, status=403)

    async with serving(Odd()) as client:
        with pytest.raises(ApiError) as caught:
            await client.create("/pods", {})
    message = caught.value.message
    assert message == printable(message)
    assert len(message) <= MAX_MESSAGE
    assert isinstance(caught.value.reason, str)
