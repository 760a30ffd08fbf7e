"""What a worker does with the responses of what may not be a coordinator."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMessage, WSMsgType, web

from trainyard_trainer.contract.env import PATH_MEMBER, PATH_STATE
from trainyard_trainer.contract.exits import Result
from trainyard_trainer.membership.messages import (
    CoordinatorMessage,
    Dismiss,
    Exclude,
    Fence,
    Hello,
)
from trainyard_trainer.membership.views import MemberAddress
from trainyard_trainer.transport import codec, connection
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
        with connection_to(peer, tmp_path) as made:
            assert made.upload("checkpoint", b"state").result(10) is False
            with pytest.raises(aiohttp.ClientError, match=f"HTTP {status}"):
                made.download("checkpoint")
            assert peer.asked.wait(10)
    assert {PATH_MEMBER, PATH_STATE} <= peer.paths
    assert other.requests == []


def test_a_worker_unpacks_no_checkpoint(tmp_path: Path) -> None:
    packed = gzip.compress(b"state")
    peer = Peer(body=packed)
    digest = hashlib.sha256(b"state").hexdigest()
    peer.headers = {"Content-Encoding": "gzip", HEADER_DIGEST: digest, "Set-Cookie": "a=b"}
    with peer.serving(), connection_to(peer, tmp_path) as made:
        with pytest.raises(aiohttp.ClientPayloadError, match="does not match its checksum"):
            made.download("checkpoint")
        peer.headers[HEADER_DIGEST] = hashlib.sha256(packed).hexdigest()
        assert made.download("checkpoint") == packed
    [first, *_] = [r for r in peer.requests if r.path == PATH_STATE]
    assert first.headers["Accept-Encoding"] == "identity"
    assert all("Cookie" not in request.headers for request in peer.requests)


def test_any_other_status_is_no_checkpoint(tmp_path: Path) -> None:
    peer = Peer(status=206, body=b"state")
    with peer.serving(), connection_to(peer, tmp_path) as made:
        with pytest.raises(aiohttp.ClientError, match="HTTP 206"):
            made.download("checkpoint")
        peer.status = 404
        assert made.download("checkpoint") is None


@contextlib.contextmanager
def silent_peer() -> Iterator[Peer]:
    """A coordinator that takes all bytes and never answers, as a lost node looks."""
    taken: list[socket.socket] = []
    server = socket.create_server(("127.0.0.1", 0))

    def swallow(client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while client.recv(1 << 16):
                pass

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = server.accept()
                taken.append(client)
                threading.Thread(target=swallow, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    peer = Peer()
    peer.port = server.getsockname()[1]
    try:
        yield peer
    finally:
        peer._loop.close()
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        for client in taken:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
            client.close()


def test_transfers_with_a_silent_coordinator_have_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connection, "TRANSFER_IDLE_SECONDS", 0.5)
    monkeypatch.setattr(connection, "CONNECT_SECONDS", 0.5)
    with silent_peer() as peer, connection_to(peer, tmp_path) as made:
        assert made.upload("model", b"x" * 1000).result(10) is False
        with pytest.raises(TimeoutError):
            made.download("checkpoint")
    assert "the model (1000 bytes) is not stored: the coordinator did not answer" in caplog.text


def test_an_upload_to_a_coordinator_that_was_replaced_is_cut_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "CONNECT_SECONDS", 0.5)
    with silent_peer() as peer, connection_to(peer, tmp_path) as made:
        upload = made.upload("model", b"x" * 1000)
        while not made._uploads:
            time.sleep(0.01)
        made._loop.call_soon_threadsafe(made._met, 2)
        assert upload.result(10) is False


def test_a_slow_transfer_that_goes_on_is_not_cut_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "TRANSFER_IDLE_SECONDS", 0.5)

    class Slow(Peer):
        async def _handle(self, request: web.Request) -> web.Response:
            if request.path != PATH_STATE:
                return web.Response(status=503)
            response = web.StreamResponse()
            response.headers[HEADER_DIGEST] = hashlib.sha256(b"x" * 8).hexdigest()
            await response.prepare(request)
            for _ in range(8):
                await asyncio.sleep(0.2)
                await response.write(b"x")
            return response  # type: ignore[return-value]

    peer = Slow()
    with peer.serving(), connection_to(peer, tmp_path) as made:
        assert made.download("checkpoint") == b"x" * 8


async def test_a_message_that_cannot_be_decoded_does_not_end_the_connection(
    tmp_path: Path,
) -> None:
    async def frames() -> AsyncIterator[WSMessage]:
        for text in ("{", '{"kind": "Riddle"}', codec.encode(Dismiss(result=Result.LEFT))):
            yield WSMessage(WSMsgType.TEXT, text, None)

    credentials = Credentials(namespace="team", job="digits", directory=str(tmp_path / "none"))
    made = CoordinatorConnection("127.0.0.1:1", credentials)
    made._loop.close()
    socket_of_frames: Any = frames()
    await made._receive_all(socket_of_frames)
    assert made.receive() == Dismiss(result=Result.LEFT)


@pytest.mark.parametrize("message", [Exclude(reason="it hangs"), Fence()], ids=str)
@pytest.mark.parametrize("is_received", [True, False], ids=["received", "ignored"])
async def test_a_training_thread_that_ignores_its_exclusion_is_noticed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    message: CoordinatorMessage,
    is_received: bool,
) -> None:
    monkeypatch.setattr(connection, "EXCLUDE_SECONDS", 0.2)
    monkeypatch.setattr(connection, "FENCE_SECONDS", 0.2)

    async def frames() -> AsyncIterator[WSMessage]:
        for _ in range(3):  # as after so many reconnects
            yield WSMessage(WSMsgType.TEXT, codec.encode(message), None)

    credentials = Credentials(namespace="team", job="digits", directory=str(tmp_path / "none"))
    made = CoordinatorConnection("127.0.0.1:1", credentials)
    made._loop.close()
    made._loop = asyncio.get_running_loop()
    reasons: list[str] = []
    made._on_ignored = reasons.append
    socket_of_frames: Any = frames()
    await made._receive_all(socket_of_frames)
    while is_received and made.receive() is not None:
        pass
    await asyncio.sleep(0.4)
    assert bool(reasons) is not is_received
    assert not reasons or "hang" in reasons[0]
