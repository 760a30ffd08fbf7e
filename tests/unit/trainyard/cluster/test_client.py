"""The guard in front of mutating requests: none is sent once it refuses, however late."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from kubernetes.aio import client as kube_client

from trainyard.cluster import paging
from trainyard.cluster.client import KubeClient
from trainyard.cluster.lease import LeadershipLost
from trainyard.cluster.sockets import socket_factory
from trainyard.cluster.throttle import Priority


class Server:
    """Records the requests that arrive."""

    def __init__(self) -> None:
        self.arrived: list[tuple[str, str]] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.arrived.append((request.method, request.path))
        await request.read()
        return web.json_response({})


@asynccontextmanager
async def serving(server: Server) -> AsyncIterator[KubeClient]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        await web.SockSite(runner, listener).start()
        configuration = kube_client.Configuration()
        configuration.host = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with KubeClient(configuration) as client:
            yield client
        await runner.cleanup()


def refuse() -> None:
    raise LeadershipLost("another process holds it")


async def test_a_guard_that_refuses_stops_mutating_requests_alone() -> None:
    server = Server()
    async with serving(server) as client:
        client.guard = refuse
        for change in (
            client.create("/pods", {}),
            client.update("/pods/a", {}, priority=Priority.WORK),
            client.delete("/pods/a", uid="1"),
            client.request("PUT", "/pods/a", body={}),
        ):
            with pytest.raises(LeadershipLost):
                await change
        await client.get("/pods/a")
    assert server.arrived == [("GET", "/pods/a")]


async def test_leadership_lost_after_the_start_of_a_request_stops_its_first_byte() -> None:
    """For example, while the process was suspended before the connection was open."""
    server = Server()
    asked = 0

    def refuse_the_second_time() -> None:
        nonlocal asked
        asked += 1
        if asked > 1:
            refuse()

    async with serving(server) as client:
        client.guard = refuse_the_second_time
        with pytest.raises(LeadershipLost):
            await client.create("/pods", {"metadata": {}})
        assert asked > 2, "the failed attempt is followed by one that the guard stops"
    assert server.arrived == []


async def test_guarded_requests_arrive_whole() -> None:
    bodies = []

    class Reader(Server):
        async def answer(self, request: web.Request) -> web.Response:
            bodies.append(await request.json())
            return web.json_response({"kind": "Pod"})

    async with serving(Reader()) as client:
        client.guard = lambda: None
        answers = await asyncio.gather(*(client.create("/pods", {"n": n}) for n in range(20)))
    assert sorted(body["n"] for body in bodies) == list(range(20))
    assert answers == [{"kind": "Pod"}] * 20


async def test_a_request_whose_response_is_cut_off_is_repeated() -> None:
    class Cutting(Server):
        async def answer(self, request: web.Request) -> web.Response:
            self.arrived.append((request.method, request.path))
            if len(self.arrived) > 1:
                return web.json_response({"kind": "PodList"})
            half = web.StreamResponse(headers={"Content-Length": "100"})
            await half.prepare(request)
            await half.write(b'{"kind": ')
            assert request.transport is not None
            request.transport.abort()
            return web.Response()

    async with serving(server := Cutting()) as client:
        assert await client.get("/pods") == {"kind": "PodList"}
    assert len(server.arrived) == 2


def test_sockets_fail_when_data_stays_unacknowledged() -> None:
    with socket_factory(1.5)((socket.AF_INET, socket.SOCK_STREAM, 0, "", ())) as made:
        assert made.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 1500
        assert made.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1


def test_data_that_no_peer_takes_is_given_up_in_time() -> None:
    """Otherwise what a lost leader sent arrives whenever the network lets it through."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with socket_factory(0.5)((socket.AF_INET, socket.SOCK_STREAM, 0, "", ())) as made:
            made.connect(listener.getsockname())
            made.settimeout(30)  # without the limit, the peer's full window is probed for ever
            with pytest.raises(TimeoutError) as caught:
                _send_endlessly(made)
            assert caught.value.errno == errno.ETIMEDOUT


def test_a_closed_socket_discards_unsent_data() -> None:
    """Otherwise requests of a process that has exited arrive when the network comes back."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        made = socket_factory(5)((socket.AF_INET, socket.SOCK_STREAM, 0, "", ()))
        made.connect(listener.getsockname())
        made.setblocking(False)
        accepted, _ = listener.accept()
        with contextlib.suppress(BlockingIOError):
            while made.send(b"x" * 65536):
                pass
        made.close()
        with accepted, pytest.raises(ConnectionResetError):
            _read_all(accepted)


def _read_all(end: socket.socket) -> None:
    while end.recv(65536):
        pass


def _send_endlessly(end: socket.socket) -> None:
    while True:
        end.sendall(b"x" * 65536)


class Pages(Server):
    """A collection of objects of the given sizes, in pages as they are requested."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.sizes = sizes
        self.limits: list[int] = []

    async def answer(self, request: web.Request) -> web.Response:
        start, limit = int(request.query.get("continue", "0")), int(request.query["limit"])
        self.limits.append(limit)
        end = min(start + limit, len(self.sizes))
        items = [{"name": n, "text": "x" * self.sizes[n]} for n in range(start, end)]
        meta = {"resourceVersion": "7", "continue": str(end) if end < len(self.sizes) else ""}
        return web.json_response({"metadata": meta, "items": items})


async def test_a_page_of_large_objects_is_requested_again_with_fewer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(paging, "MAX_PAGE_BYTES", 10_000)
    pages = Pages(*[10] * 64, *[3_000] * 4, *[30_000] * 2, *[10] * 64)
    async with serving(pages) as client:
        found = [item async for item in client.list_all("/pods")]
    assert [item["name"] for item in found] == list(range(134))
    assert [len(item["text"]) for item in found] == list(pages.sizes)
    assert pages.limits[0] == 500
    assert 1 in pages.limits, "an object larger than a page is a page of its own"
    assert pages.limits[-1] > 8, "the next ones come in larger pages again"
