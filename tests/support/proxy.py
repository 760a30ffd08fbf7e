"""A TCP proxy in front of the API server, whose connections a test can cut, reset and stall.

One that records requests can hold some of them back, as a slow webhook does.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
import ssl
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

CHUNK = 1 << 16
CHANGE = re.compile(rb"(POST|PUT|PATCH|DELETE) (/\S*) HTTP/1\.1\r\n")


class Proxy:
    """Forwards bytes until it is cut; then connections are reset and new ones refused.

    With `records` it serves plain HTTP and connects to the server by TLS with the kubeconfig's
    credentials, so that it can record the requests.
    """

    def __init__(self, kubeconfig: Path, *, records: bool = False) -> None:
        self._document = json.loads(kubeconfig.read_text())
        self._tls = _tls(self._document) if records else None
        self.changes: list[tuple[str, str]] = []
        """Method and path of every mutating request, if the proxy `records`."""
        self._forwards = asyncio.Event()
        self._forwards.set()
        self._held: dict[str, asyncio.Event] = {}
        server = urlsplit(self._document["clusters"][0]["cluster"]["server"])
        self._host, self._api_port = server.hostname or "127.0.0.1", server.port or 443
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._port = 0

    def write_kubeconfig(self, path: Path) -> Path:
        """Write the kubeconfig of a client that goes through this proxy."""
        scheme = "http" if self._tls else "https"
        server = f"{scheme}://{self._host}:{self._port}"
        self._document["clusters"][0]["cluster"]["server"] = server
        path.write_text(json.dumps(self._document))
        return path

    async def __aenter__(self) -> Self:
        await self.restore()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        await self.cut()

    async def restore(self) -> None:
        """Listen again, always on the same port."""
        self._server = await asyncio.start_server(self._serve, self._host, self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Reset every connection and refuse new ones until `restore`."""
        assert self._server is not None
        # asyncio leaves an accepted connection open if its server closes meanwhile: accept no more
        # first, and let those that are being accepted arrive.
        for listener in self._server.sockets:
            asyncio.get_running_loop().remove_reader(listener.fileno())
        await asyncio.sleep(0)
        self._server.close()
        self.reset()
        await self._server.wait_closed()

    def reset(self) -> None:
        """Reset every connection; new ones are accepted."""
        for writer in self._open:
            writer.transport.abort()

    def stall(self) -> None:
        """Accept bytes but forward none, as a network that drops packets."""
        self._forwards.clear()

    def resume(self) -> None:
        """Forward again, beginning with the bytes that were held back."""
        self._forwards.set()

    def hold(self, path: str) -> None:
        """Hold back mutating requests to that path until `release`, if the proxy `records`."""
        self._held[path] = asyncio.Event()

    def release(self, path: str) -> None:
        """Forward the requests to that path, those that were held back first."""
        self._held.pop(path).set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            upstream, downstream = await asyncio.open_connection(
                self._host, self._api_port, ssl=self._tls
            )
        except OSError:
            writer.transport.abort()
            self._open.discard(writer)
            return
        self._open.add(downstream)
        directions = [
            asyncio.create_task(self._forward(reader, downstream, self._inspect)),
            asyncio.create_task(self._forward(upstream, writer)),
        ]
        await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        for end in (writer, downstream):
            end.transport.abort()
            self._open.discard(end)
        await asyncio.gather(*directions, return_exceptions=True)

    async def _forward(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        inspect: Callable[[bytes], Awaitable[None]] | None = None,
    ) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(CHUNK):
                if inspect is not None:
                    await inspect(chunk)
                await self._forwards.wait()
                writer.write(chunk)
                await writer.drain()

    async def _inspect(self, chunk: bytes) -> None:
        if self._tls is None:
            return
        for method, path in CHANGE.findall(chunk):
            self.changes.append((method.decode(), path.decode()))
            if (held := self._held.get(path.decode().partition("?")[0])) is not None:
                await held.wait()


def _tls(document: dict[str, Any]) -> ssl.SSLContext:
    """The TLS context of a client with that kubeconfig."""
    cluster, user = document["clusters"][0]["cluster"], document["users"][0]["user"]
    authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
    context = ssl.create_default_context(cadata=authority)
    with tempfile.TemporaryDirectory() as folder:
        pair = Path(folder, "client.pem")
        parts = (user["client-certificate-data"], user["client-key-data"])
        pair.write_bytes(b"\n".join(base64.b64decode(part) for part in parts))
        context.load_cert_chain(pair)
    return context
