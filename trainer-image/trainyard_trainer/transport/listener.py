"""Accepts connections within limits that hold before a certificate was seen.

Anybody on the pod network can open a connection. The number of handshakes under way is bounded, and
each has to end soon; beyond the limit the oldest one gives way, as a peer of the job needs
milliseconds for it.
"""

from __future__ import annotations

import asyncio
import asyncio.sslproto
import contextlib
import functools
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Final

from trainyard_trainer.transport.tls import names

log = logging.getLogger(__name__)

HANDSHAKE_SECONDS: Final = 10.0
MAX_HANDSHAKES: Final = 256
TLS_BUFFER_BYTES: Final = 64 << 10
"""What asyncio reserves for each TLS connection, in place of 256 KiB."""
BACKLOG: Final = 128
IDLE_SECONDS: Final = 5
"""A silent connection is probed after this (TCP keepalive), so that a lost node is noticed."""
PROBE_SECONDS: Final = 2
PROBES: Final = 3


class Listener:
    """Accepts connections on one port and hands them to protocols once they are authenticated."""

    def __init__(
        self,
        make_protocol: Callable[[], asyncio.Protocol],
        context: ssl.SSLContext | None,
        max_per_peer: int | None,
    ) -> None:
        """`max_per_peer` bounds the connections of one certificate's name."""
        self._make_protocol, self._context = make_protocol, context
        self._max_per_peer = max_per_peer
        self._handshakes: dict[asyncio.Task[None], None] = {}
        """The oldest first."""
        self._peers: dict[str, set[socket.socket]] = {}

    @contextlib.asynccontextmanager
    async def listening(self, host: str | None, port: int) -> AsyncIterator[int]:
        """Accept connections on `host` (None: all addresses) and `port` (0: any free one)."""
        asyncio.sslproto.SSLProtocol.max_size = TLS_BUFFER_BYTES
        with _listen(host, port) as listening:
            accepting = asyncio.create_task(self._accept(listening))
            try:
                yield int(listening.getsockname()[1])
            finally:
                tasks = [accepting, *self._handshakes]
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listening)
            except OSError as error:  # No descriptor is free, or the peer has gone already.
                log.warning("a connection could not be accepted: %s", error)
                await asyncio.sleep(0.1)
                continue
            if len(self._handshakes) >= MAX_HANDSHAKES:
                oldest = next(iter(self._handshakes))
                del self._handshakes[oldest]
                oldest.cancel()
            task = asyncio.create_task(self._shake_hands(connection))
            self._handshakes[task] = None
            task.add_done_callback(functools.partial(self._end_handshake, connection))

    def _end_handshake(self, connection: socket.socket, task: asyncio.Task[None]) -> None:
        self._handshakes.pop(task, None)
        if task.cancelled():  # Before it began, so that no transport closes the connection.
            connection.close()

    async def _shake_hands(self, connection: socket.socket) -> None:
        timeout = HANDSHAKE_SECONDS if self._context is not None else None
        try:
            transport, _ = await asyncio.get_running_loop().connect_accepted_socket(
                self._make_protocol,
                connection,
                ssl=self._context,
                ssl_handshake_timeout=timeout,
            )
        except (OSError, asyncio.CancelledError):  # TLS errors are among them.
            return
        self._limit(transport, connection)

    def _limit(self, transport: asyncio.Transport, connection: socket.socket) -> None:
        """Close a connection of a peer that has too many."""
        if self._max_per_peer is None:
            return
        for name in names(transport.get_extra_info("peercert")):
            mine = {each for each in self._peers.get(name, ()) if each.fileno() >= 0}
            self._peers[name] = mine
            if len(mine) >= self._max_per_peer:
                log.warning("%s has %d connections already", name, len(mine))
                transport.abort()
                return
            mine.add(connection)


def _listen(host: str | None, port: int) -> socket.socket:
    """A listening socket whose connections are probed while they are silent."""
    if host is not None:
        listening = socket.create_server((host, port), backlog=BACKLOG)
    else:
        listening = _listen_everywhere(port)
    listening.setblocking(False)
    # Accepted connections inherit these options.
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = {
        "TCP_KEEPIDLE": IDLE_SECONDS,
        "TCP_KEEPINTVL": PROBE_SECONDS,
        "TCP_KEEPCNT": PROBES,
    }
    for name, value in options.items():
        if hasattr(socket, name):  # All exist on Linux, some elsewhere.
            listening.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return listening


def _listen_everywhere(port: int) -> socket.socket:
    """A socket for all addresses of both families, or of IPv4 where there is no IPv6."""
    with contextlib.suppress(OSError):
        if socket.has_dualstack_ipv6():
            return socket.create_server(
                ("", port), family=socket.AF_INET6, backlog=BACKLOG, dualstack_ipv6=True
            )
    return socket.create_server(("", port), backlog=BACKLOG)
