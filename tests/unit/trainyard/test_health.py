"""The operator's endpoint says when nothing succeeds any more, and costs the controller little."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from datetime import timedelta

import aiohttp
import pytest

from tests.support.dependencies import dependencies_of
from tests.support.fakeapi import FakeApi
from tests.support.jobs import make_job
from tests.support.process import free_port
from trainyard import health
from trainyard.cluster.activity import Activity
from trainyard.health import HealthServer
from trainyard.reconcile.controller import Controller

MINUTE = timedelta(minutes=1)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Served:
    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.clock = Clock()
        deps = dependencies_of(FakeApi(), make_job(), activity=Activity(self.clock))
        self.controller = Controller(deps)
        self.controller.is_synced = True
        self.server = HealthServer(self.controller, host, port, MINUTE)

    async def get(self, path: str) -> tuple[int, str]:
        url = f"http://127.0.0.1:{self.server.port}{path}"
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            return response.status, await response.text()


@pytest.mark.parametrize("address", ["127.0.0.1", "[::1]"])
async def test_kubelets_of_either_family_of_addresses_reach_it(address: str) -> None:
    """It listened on IPv4 alone, and was never ready in a cluster of IPv6."""
    port = free_port()
    async with (
        Served("", port).server,
        aiohttp.ClientSession() as session,
        session.get(f"http://{address}:{port}/healthz") as response,
    ):
        assert response.status == 200


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    made = Served()
    async with made.server:
        yield made


async def test_a_watch_without_success_for_too_long_is_unhealthy(served: Served) -> None:
    served.controller.deps.activity.record("/api/v1/pods")
    assert await served.get("/healthz") == (200, "ok\n")
    served.clock.now = 59
    assert (await served.get("/healthz"))[0] == 200, "the API server may be away for a while"
    served.clock.now = 61
    assert await served.get("/healthz") == (503, "no success for 60 s: /api/v1/pods\n")
    served.controller.deps.activity.record("/api/v1/pods")
    assert (await served.get("/healthz"))[0] == 200


async def test_a_scheduler_that_fails_is_unhealthy_and_one_that_idles_is_not(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = served.controller.scheduler

    async def fail() -> None:
        raise RuntimeError("no decision")

    await scheduler.try_schedule()
    served.clock.now = 1000
    assert (await served.get("/healthz"))[0] == 200
    with monkeypatch.context() as patch:
        patch.setattr(scheduler, "schedule", fail)
        await scheduler.try_schedule()
        served.clock.now = 1059
        await scheduler.try_schedule()
        served.clock.now = 1061
        assert await served.get("/healthz") == (503, "no success for 60 s: the scheduler\n")
    await scheduler.try_schedule()
    assert (await served.get("/healthz"))[0] == 200


async def test_the_first_listing_comes_first(served: Served) -> None:
    served.controller.is_synced = False
    assert await served.get("/healthz") == (503, "the first listing is not complete yet\n")


def ask(port: int, path: str) -> bytes:
    """A request from a thread, while the loop is busy."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as opened:
        opened.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while part := opened.recv(65536):
            answer += part
    return answer


async def test_a_busy_controller_delays_no_probe_and_a_hung_one_fails_it(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "CACHE_SECONDS", 0.0)
    monkeypatch.setattr(health, "WAIT_SECONDS", 0.05)
    monkeypatch.setattr(health, "HUNG_SECONDS", 0.6)
    asked = asyncio.create_task(asyncio.to_thread(probe_while_busy, served.server.port))
    await asyncio.sleep(0)
    time.sleep(2.0)  # noqa: ASYNC251 - the loop is what hangs
    early, late = await asked
    assert early.startswith(b"HTTP/1.1 200"), early
    assert late.startswith(b"HTTP/1.1 503"), late
    assert b"the controller has been busy for 1 s" in late
    assert (await served.get("/healthz"))[0] == 200, "it goes on"


def probe_while_busy(port: int) -> tuple[bytes, bytes]:
    time.sleep(0.1)
    early = ask(port, "/healthz")
    time.sleep(0.9)
    return early, ask(port, "/healthz")


async def test_the_gauges_are_taken_once_a_second_however_many_ask(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = 0

    def observe() -> None:
        nonlocal taken
        taken += 1
        served.controller.deps.metrics.leader.set(taken)

    monkeypatch.setattr(served.server._controllers_loop, "_observe", observe)
    monkeypatch.setattr(health, "CACHE_SECONDS", 3600.0)
    served.server._controllers_loop._observed_at = float("-inf")
    answers = await asyncio.gather(*(served.get("/metrics") for _ in range(20)))
    assert taken == 1
    assert {status for status, _ in answers} == {200}
    assert "trainyard_operator_leader 1.0" in answers[0][1]


@pytest.mark.parametrize("is_busy", [False, True], ids=["one by one", "at the same moment"])
async def test_connections_that_ask_nothing_keep_nobody_out(
    served: Served, *, is_busy: bool
) -> None:
    """Kept open without a bound they would take all file descriptors."""

    async def hold() -> None:
        time.sleep(0.5)  # noqa: ASYNC251 - the loop is what hangs

    held = asyncio.create_task(served.server._thread.run(hold())) if is_busy else None
    await asyncio.sleep(0.1)
    idle = []
    for _ in range(3 * health.MAX_CONNECTIONS):
        idle.append(await asyncio.open_connection("127.0.0.1", served.server.port))
    if held is not None:
        await held
    assert (await served.get("/healthz"))[0] == 200
    closed = 0
    for reader, _ in idle[: health.MAX_CONNECTIONS]:
        async with asyncio.timeout(5):
            closed += await reader.read() == b""
    assert closed == health.MAX_CONNECTIONS, "the oldest were closed"
    for _, writer in idle:
        writer.close()
    await asyncio.gather(*(writer.wait_closed() for _, writer in idle), return_exceptions=True)


async def test_a_connection_does_not_last(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "CONNECTION_SECONDS", 0.1)
    reader, writer = await asyncio.open_connection("127.0.0.1", served.server.port)
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(5):
            assert await reader.read() == b""
    writer.close()
