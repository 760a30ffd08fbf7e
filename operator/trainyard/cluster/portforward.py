"""Port forwarding to a pod through the API server.

Used when the operator runs outside the cluster. TLS stays end to end: neither the API server nor
this tunnel can read or change the coordinator's mTLS stream. The wire format is Kubernetes'
`v4.channel.k8s.io` WebSocket: each message starts with a channel byte (0 data, 1 error), and the
first message of a channel with two bytes that repeat the port.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import aiohttp

from trainyard.cluster.client import KubeClient, collection

PROTOCOL = "v4.channel.k8s.io"
CHUNK = 64 * 1024
DATA, ERROR = b"\x00", b"\x01"


@contextlib.asynccontextmanager
async def forward(client: KubeClient, namespace: str, pod: str, port: int) -> AsyncIterator[int]:
    """Listen on a free loopback port for as long as the context lasts; yields its number."""
    tunnels: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(_tunnel(client, namespace, pod, port, reader, writer))
        tunnels.add(task)
        task.add_done_callback(tunnels.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tunnels:
            task.cancel()
        await asyncio.gather(*tunnels, return_exceptions=True)
        await server.wait_closed()


async def _tunnel(
    client: KubeClient,
    namespace: str,
    pod: str,
    port: int,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> None:
    path = f"{collection('v1', 'pods', namespace)}/{pod}/portforward?ports={port}"
    try:
        async with client.session.ws_connect(
            client.url(path), protocols=(PROTOCOL,), headers=await client.headers()
        ) as socket:
            up = asyncio.ensure_future(_upward(reader, socket))
            try:
                await _downward(socket, writer)
            finally:
                up.cancel()
                await asyncio.gather(up, return_exceptions=True)
    except (aiohttp.ClientError, OSError):
        # The local side sees a closed connection and reports it.
        pass
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _upward(reader: asyncio.StreamReader, socket: aiohttp.ClientWebSocketResponse) -> None:
    while chunk := await reader.read(CHUNK):
        await socket.send_bytes(DATA + chunk)


async def _downward(socket: aiohttp.ClientWebSocketResponse, writer: asyncio.StreamWriter) -> None:
    opened: set[bytes] = set()
    async for message in socket:
        if message.type is not aiohttp.WSMsgType.BINARY:
            return
        channel, payload = message.data[:1], message.data[1:]
        if channel not in opened:
            opened.add(channel)
            payload = payload[2:]
        if channel == ERROR and payload:
            return
        if channel == DATA and payload:
            writer.write(payload)
            await writer.drain()
