"""Connections to coordinators: probed before they are opened, closed with their job."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import socket
import ssl
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from tests.support.coordinators import HONEST, PlayedCoordinator, constant, server_context
from tests.support.fakeapi import FakeApi
from tests.support.jobs import KEY, NOW, UID, coordinator, make_job
from tests.support.rotation import Operator, files
from trainyard.api.report import CoordinatorReport
from trainyard.cluster import coordinator as coordinator_module
from trainyard.cluster.coordinator import (
    MAX_ANSWER_BYTES,
    MAX_COUNT,
    MAX_QUOTE,
    Address,
    Coordinators,
    PlanRefusedError,
    UnreachableError,
    address_of,
)
from trainyard_trainer.contract.plan import Plan

LOOPBACK = "127.0.0.1"


@pytest.fixture
def port() -> int:
    """A free port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        found: int = probe.getsockname()[1]
    return found


@pytest.fixture
def address(port: int, monkeypatch: pytest.MonkeyPatch) -> Address:
    """The address of a coordinator at that port."""
    monkeypatch.setattr(coordinator_module, "COORDINATOR_PORT", port)
    return address_of(KEY, coordinator(ip=LOOPBACK, subdomain="trainyard"), "cluster.local")


async def test_a_closed_port_is_detected_without_tls(address: Address) -> None:
    with pytest.raises(UnreachableError, match="ConnectionRefusedError"):
        await Coordinators(FakeApi().client, is_direct=True).probe(address)


async def test_an_open_port_is_not_disturbed(address: Address, port: int) -> None:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(serve, LOOPBACK, port):
        await Coordinators(FakeApi().client, is_direct=True).probe(address)


async def test_a_coordinator_behind_a_tunnel_is_not_probed(address: Address) -> None:
    await Coordinators(FakeApi().client, is_direct=False).probe(address)


async def test_a_removed_job_leaves_no_connection(address: Address) -> None:
    coordinators = Coordinators(FakeApi().client, is_direct=True)
    await coordinators._connect(address, ssl.create_default_context())
    assert coordinators.is_open(address.pod.uid)
    await coordinators.forget_job(KEY)
    assert not coordinators.is_open(address.pod.uid)


def test_a_refused_plan_names_the_one_in_force_whatever_else_it_says() -> None:
    error = coordinator_module._stale_plan(b'{"generation": 3, "fencingToken": 2, "unknown": [1]}')
    assert (error.generation, error.fencing_token) == (3, 2)


@pytest.mark.parametrize(("said", "taken"), [(-5, 0), (2**70, MAX_COUNT)])
def test_a_generation_that_no_status_can_hold_is_bounded(said: int, taken: int) -> None:
    error = coordinator_module._stale_plan(f'{{"generation": {said}, "fencingToken": -1}}'.encode())
    assert (error.generation, error.fencing_token) == (taken, 0)


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'{"generation": "many"}', b'{"generation": 1e999}', b"[" * 100_000],
)
def test_a_refusal_without_a_generation_is_no_answer(body: bytes) -> None:
    with pytest.raises(UnreachableError):
        raise coordinator_module._stale_plan(body)


class GuardedApi(FakeApi):
    """Adds what a Plan needs of the client."""

    def check(self) -> None:
        pass

    def guarded(self, body: bytes) -> aiohttp.BytesPayload:
        return aiohttp.BytesPayload(body)


class Peers:
    """The operator's connections, and what the coordinator's pod has mounted."""

    def __init__(self, address: Address, port: int) -> None:
        self.address, self.port = address, port
        self.coordinators = Coordinators(
            GuardedApi().client, is_direct=True, scrape_timeout=timedelta(seconds=0.5)
        )
        self._api = FakeApi()
        self._operator = Operator(self._api, jobs=(make_job(),))

    async def open(self) -> None:
        """Issue the certificates."""
        await self._operator.run()

    @contextlib.asynccontextmanager
    async def serving(
        self, played: PlayedCoordinator, host: str = LOOPBACK
    ) -> AsyncIterator[PlayedCoordinator]:
        """The coordinator, serving where the operator expects it."""
        context = server_context(files(self._api, make_job()))
        async with played.serving(host, self.port, context):
            yield played

    async def _tls(self) -> ssl.SSLContext | None:
        if self.coordinators.is_open(self.address.pod.uid):
            return None
        return await self._operator.deps.authorities.operator_context(KEY, UID, datetime.now(UTC))

    async def scrape(self) -> CoordinatorReport:
        return await self.coordinators.scrape(self.address, await self._tls(), NOW)

    async def put_plan(self) -> None:
        plan = Plan(generation=1, workers=2)
        await self.coordinators.put_plan(self.address, await self._tls(), plan)


@pytest.fixture
async def peers(address: Address, port: int) -> AsyncIterator[Peers]:
    made = Peers(address, port)
    await made.open()
    yield made
    await made.coordinators.close()


async def test_one_connection_serves_all_scrapes_and_plans(peers: Peers) -> None:
    async with peers.serving(PlayedCoordinator()) as played:
        for _ in range(3):
            report = await peers.scrape()
            await peers.put_plan()
    assert report.active_workers == 1
    assert played.requests == ["GET /metrics", "PUT /v1/plan"] * 3
    assert len(played.connections) == 1


async def test_the_connection_to_an_earlier_coordinator_of_a_job_is_closed(peers: Peers) -> None:
    first = peers.address.pod.uid
    async with peers.serving(PlayedCoordinator()):
        await peers.scrape()
        pod = replace(peers.address.pod, uid="of-the-next-one")
        peers.address = replace(peers.address, pod=pod)
        await peers.scrape()
    assert (peers.coordinators.connected, peers.coordinators.is_open(first)) == (1, False)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(peers: Peers, status: int) -> None:
    """It was: with the Plan as its body, to whatever the operator's pod reaches."""
    connections = 0

    async def count(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.close()

    async with await asyncio.start_server(count, LOOPBACK, 0) as other:
        target = f"http://{LOOPBACK}:{other.sockets[0].getsockname()[1]}/"
        redirect = constant(status=status, headers={"Location": target})
        async with peers.serving(PlayedCoordinator(redirect, redirect)) as played:
            for request in (peers.scrape, peers.put_plan):
                with pytest.raises(UnreachableError, match=f"HTTP {status}"):
                    await request()
    assert played.requests == ["GET /metrics", "PUT /v1/plan"]
    assert connections == 0


@pytest.mark.parametrize("status", [201, 204, 206, 403, 404, 500, 503])
async def test_a_response_that_no_coordinator_gives_is_no_answer(peers: Peers, status: int) -> None:
    odd = constant(HONEST if status != 204 else b"", status)
    async with peers.serving(PlayedCoordinator(odd, odd)):
        for request in (peers.scrape, peers.put_plan):
            with pytest.raises(UnreachableError, match=f"HTTP {status}"):
                await request()


async def test_cookies_are_not_kept(peers: Peers) -> None:
    sets = constant(HONEST, headers={"Set-Cookie": "a=b; Path=/"})
    async with peers.serving(PlayedCoordinator(sets)) as played:
        await peers.scrape()
        [link] = peers.coordinators._connections.values()
        # aiohttp keeps no cookies of an address, but those of a name.
        link.session.cookie_jar.update_cookies({"c": "d"}, URL("https://name.example"))
        await peers.scrape()
    assert len(link.session.cookie_jar) == 0
    assert [headers.get("Cookie") for headers in played.headers] == [None, None]


async def test_a_compressed_response_is_not_unpacked(peers: Peers) -> None:
    packed = gzip.compress(HONEST)
    async with peers.serving(
        PlayedCoordinator(constant(packed, headers={"Content-Encoding": "gzip"}))
    ) as played:
        with pytest.raises(UnreachableError, match="not OpenMetrics"):
            await peers.scrape()
    assert played.headers[0]["Accept-Encoding"] == "identity"


async def test_a_response_that_is_too_long_is_not_read_to_its_end(peers: Peers) -> None:
    async with peers.serving(PlayedCoordinator(constant(b"#" * (MAX_ANSWER_BYTES + 1)))):
        with pytest.raises(UnreachableError, match=f"more than {MAX_ANSWER_BYTES} bytes"):
            await peers.scrape()


async def test_a_response_that_trickles_in_is_given_up(peers: Peers) -> None:
    async def trickle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(50):
            await response.write(b"#")
            await asyncio.sleep(0.1)
        return response

    async with peers.serving(PlayedCoordinator(trickle)):
        with pytest.raises(UnreachableError, match="TimeoutError"):
            await peers.scrape()
        assert not peers.coordinators.is_open(peers.address.pod.uid)


async def test_a_refused_plan_has_the_coordinators_reason(peers: Peers) -> None:
    reason = "plan.workers must be\n\x1b[31mat least\x1b[0m 1 " + "x" * 10_000
    refuse = constant(json.dumps({"error": reason}).encode(), 400)
    async with peers.serving(PlayedCoordinator(plan=refuse)):
        with pytest.raises(
            PlanRefusedError, match=r"^plan\.workers must be .\[31mat least"
        ) as said:
            await peers.put_plan()
    assert len(str(said.value)) == MAX_QUOTE
    assert str(said.value).isprintable()


@pytest.mark.parametrize("body", [b"", b"no", b"[]", b'{"error": 1}', b"[" * 100_000])
async def test_a_refusal_without_a_reason_is_quoted(peers: Peers, body: bytes) -> None:
    async with peers.serving(PlayedCoordinator(plan=constant(body, 400))):
        with pytest.raises(PlanRefusedError):
            await peers.put_plan()


async def test_metrics_are_parsed_outside_the_event_loop(
    peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: set[threading.Thread] = set()

    def parse(_: str, now: datetime) -> CoordinatorReport:
        threads.add(threading.current_thread())
        return CoordinatorReport(at=now)

    monkeypatch.setattr(coordinator_module, "parse_report", parse)
    async with peers.serving(PlayedCoordinator()):
        await peers.scrape()
        await asyncio.gather(*(peers.scrape() for _ in range(5)))
    assert len(threads) == 1, "one at a time"
    assert threads.isdisjoint({threading.main_thread()})


async def test_a_coordinator_with_an_ipv6_address_is_reached(peers: Peers) -> None:
    pod = replace(peers.address.pod, ip="::1")
    peers.address = replace(peers.address, pod=pod)
    async with peers.serving(PlayedCoordinator(), "::1"):
        await peers.coordinators.probe(peers.address)
        assert (await peers.scrape()).active_workers == 1
        await peers.put_plan()
