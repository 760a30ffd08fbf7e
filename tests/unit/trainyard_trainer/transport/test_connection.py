"""What a worker does with the responses of what may not be a coordinator."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from trainyard_trainer.contract.env import PATH_MEMBER, PATH_STATE
from trainyard_trainer.membership.messages import Hello
from trainyard_trainer.membership.views import MemberAddress
from trainyard_trainer.transport.connection import HEADER_DIGEST, CoordinatorConnection
from trainyard_trainer.transport.tls import Credentials

HERE = MemberAddress(member_id="digits-worker-0-1")


class Peer:
    """A server on loopback, in a thread of its own, that gives one response to everything."""

    def __init__(self, status: int = 200, body: bytes = b"") -> None:
        self.status, self.body = status, body
        self.headers: dict[str, str] = {}
        self.requests: list[web.Request] = []
        self.port = 0
        self.asked = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    async def _handle(self, request: web.Request) -> web.Response:
        self.requests.append(request)
        await request.read()
        if len(self.requests) >= 2:
            self.asked.set()
        return web.Response(status=self.status, body=self.body, headers=self.headers)

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        self._thread.start()
        runner = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        try:
            yield
        finally:
            asyncio.run_coroutine_threadsafe(runner.cleanup(), self._loop).result(10)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)
            self._loop.close()

    async def _start(self) -> web.AppRunner:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.port = runner.addresses[0][1]
        return runner

    @property
    def paths(self) -> set[str]:
        return {request.path for request in self.requests}


@contextlib.contextmanager
def connection_to(peer: Peer, folder: Path) -> Iterator[CoordinatorConnection]:
    credentials = Credentials(namespace="team", job="digits", directory=str(folder / "none"))
    made = CoordinatorConnection(f"127.0.0.1:{peer.port}", credentials)
    made.start(lambda: Hello(address=HERE))
    try:
        yield made
    finally:
        made.close(10)
        made._loop.close()  # a worker's process ends with it


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_worker_follows_no_redirect(status: int, tmp_path: Path) -> None:
    """It did, with the whole state of the training as the body."""
    other, peer = Peer(), Peer(status)
    with other.serving(), peer.serving():
        peer.headers = {"Location": f"http://127.0.0.1:{other.port}/"}
        with connection_to(peer, tmp_path) as connection:
            assert connection.upload("checkpoint", b"state").result(10) is False
            with pytest.raises(aiohttp.ClientError, match=f"HTTP {status}"):
                connection.download("checkpoint")
            assert peer.asked.wait(10)
    assert {PATH_MEMBER, PATH_STATE} <= peer.paths
    assert other.requests == []


def test_a_worker_unpacks_no_checkpoint(tmp_path: Path) -> None:
    packed = gzip.compress(b"state")
    peer = Peer(body=packed)
    digest = hashlib.sha256(b"state").hexdigest()
    peer.headers = {"Content-Encoding": "gzip", HEADER_DIGEST: digest, "Set-Cookie": "a=b"}
    with peer.serving(), connection_to(peer, tmp_path) as connection:
        with pytest.raises(aiohttp.ClientPayloadError, match="does not match its checksum"):
            connection.download("checkpoint")
        peer.headers[HEADER_DIGEST] = hashlib.sha256(packed).hexdigest()
        assert connection.download("checkpoint") == packed
    [first, *_] = [r for r in peer.requests if r.path == PATH_STATE]
    assert first.headers["Accept-Encoding"] == "identity"
    assert all("Cookie" not in request.headers for request in peer.requests)


def test_any_other_status_is_no_checkpoint(tmp_path: Path) -> None:
    peer = Peer(status=206, body=b"state")
    with peer.serving(), connection_to(peer, tmp_path) as connection:
        with pytest.raises(aiohttp.ClientError, match="HTTP 206"):
            connection.download("checkpoint")
        peer.status = 404
        assert connection.download("checkpoint") is None
