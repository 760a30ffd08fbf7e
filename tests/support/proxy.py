"""A TCP proxy in front of the API server that a test can cut, as a network does."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

CHUNK = 1 << 16


class Proxy:
    """Passes bytes on until it is cut: then connections are reset, and new ones refused."""

    def __init__(self, kubeconfig: Path) -> None:
        self._document = json.loads(kubeconfig.read_text())
        server = urlsplit(self._document["clusters"][0]["cluster"]["server"])
        self._host, self._api_port = server.hostname or "127.0.0.1", server.port or 443
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._port = 0

    def write_kubeconfig(self, path: Path) -> Path:
        """The kubeconfig of whoever goes through this proxy."""
        self._document["clusters"][0]["cluster"]["server"] = f"https://{self._host}:{self._port}"
        path.write_text(json.dumps(self._document))
        return path

    async def __aenter__(self) -> Self:
        await self.mend()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        await self.cut()

    async def mend(self) -> None:
        """Listen (again), always on the same port."""
        self._server = await asyncio.start_server(self._serve, self._host, self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Reset every connection and refuse new ones until `mend`."""
        assert self._server is not None
        self._server.close()
        self.reset()
        await self._server.wait_closed()

    def reset(self) -> None:
        """Reset every connection; new ones are taken."""
        for writer in self._open:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            upstream, downstream = await asyncio.open_connection(self._host, self._api_port)
        except OSError:
            writer.transport.abort()
            self._open.discard(writer)
            return
        self._open.add(downstream)
        ways = [
            asyncio.create_task(_pass_on(reader, downstream)),
            asyncio.create_task(_pass_on(upstream, writer)),
        ]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for end in (writer, downstream):
            end.transport.abort()
            self._open.discard(end)
        await asyncio.gather(*ways, return_exceptions=True)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while chunk := await reader.read(CHUNK):
            writer.write(chunk)
            await writer.drain()
