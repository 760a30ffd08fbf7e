"""A server before any certificate was seen: handshakes are bounded in number and in time."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.processes.certificates import Authority, client
from trainyard_trainer.contract.env import Role
from trainyard_trainer.transport import listener
from trainyard_trainer.transport.listener import Listener
from trainyard_trainer.transport.tls import Credentials

AUTHORITY = Authority()


class Echo(asyncio.Protocol):
    """Sends back what it receives."""

    transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)


@contextlib.asynccontextmanager
async def listening(folder: Path, max_per_peer: int | None = None) -> AsyncIterator[int]:
    directory = str(AUTHORITY.issue(folder / "server", Role.COORDINATOR))
    credentials = Credentials(namespace="test", job="job", directory=directory)
    echoes: list[Echo] = []

    def make() -> Echo:
        echoes.append(Echo())
        return echoes[-1]

    server = Listener(make, credentials.server(), max_per_peer)
    async with server.listening(None, 0) as port:
        yield port
    for echo in echoes:
        if echo.transport is not None:
            echo.transport.abort()
    await asyncio.sleep(0.05)


class Peer:
    """An authenticated connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, folder: Path, port: int, name: str = "a") -> "Peer":
        context = client(AUTHORITY.issue(folder / name, Role.PARTY, member=name))
        return cls(*await asyncio.open_connection("127.0.0.1", port, ssl=context))

    async def echo(self) -> bytes:
        self.writer.write(b"x")
        async with asyncio.timeout(10):
            return await self.reader.read(1)

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


async def is_closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        async with asyncio.timeout(10):
            return await asyncio.get_running_loop().sock_recv(connection, 1) == b""
    except ConnectionError:
        return True


async def test_a_silent_connection_is_closed_after_the_handshakes_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "HANDSHAKE_SECONDS", 0.3)
    async with listening(tmp_path) as port:
        with socket.create_connection(("127.0.0.1", port)) as silent:
            assert await is_closed(silent)


async def test_beyond_the_limit_the_oldest_handshake_gives_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "MAX_HANDSHAKES", 4)
    async with listening(tmp_path) as port:
        with contextlib.ExitStack() as stack:
            silent = [
                stack.enter_context(socket.create_connection(("127.0.0.1", port)))
                for _ in range(12)
            ]
            peer = await Peer.connect(tmp_path, port)
            assert await peer.echo() == b"x"
            assert [await is_closed(each) for each in silent[:8]] == [True] * 8
            await peer.close()


async def test_one_certificate_has_a_bounded_number_of_connections(tmp_path: Path) -> None:
    async with listening(tmp_path, max_per_peer=3) as port:
        peers = [await Peer.connect(tmp_path, port) for _ in range(3)]
        assert [await peer.echo() for peer in peers] == [b"x"] * 3
        excess = await Peer.connect(tmp_path, port)
        with contextlib.suppress(OSError):
            async with asyncio.timeout(10):
                assert await excess.reader.read() == b"", "it is closed at once"
        other = await Peer.connect(tmp_path, port, "b")
        assert await other.echo() == b"x"
        await peers.pop().close()
        await asyncio.sleep(0.2)
        peers.append(await Peer.connect(tmp_path, port))
        assert await peers[-1].echo() == b"x"
        for peer in (*peers, other, excess):
            await peer.close()


async def test_connections_reserve_small_tls_buffers(tmp_path: Path) -> None:
    async with listening(tmp_path):
        assert asyncio.sslproto.SSLProtocol.max_size == listener.TLS_BUFFER_BYTES
