"""Sockets to the API server whose bytes arrive soon or never.

A request buffered on this machine during a network failure would otherwise arrive whenever the
network comes back and carry out an outdated decision, and a watch whose peer vanished would stay
silent for ever.
"""

from __future__ import annotations

import asyncio.sslproto
import socket
import struct
from collections.abc import Callable
from typing import Any

BUFFER_BYTES = 2**17
"""Of what has arrived and was not read yet, for each connection: the rest stays in the socket."""
TLS_BUFFER_BYTES = 2**16
"""What asyncio reserves for each TLS connection, in place of 256 KiB: every running job has one."""
UNACKNOWLEDGED_SECONDS = 5
"""The time between renew deadline and lease duration by default."""
IDLE_SECONDS = 10
"""A silent connection is probed after this (TCP keepalive)."""
PROBE_SECONDS = 5
PROBES = 3


def shrink_tls_buffers() -> None:
    """Have TLS connections that are opened from now on reserve `TLS_BUFFER_BYTES` each."""
    asyncio.sslproto.SSLProtocol.max_size = TLS_BUFFER_BYTES


def socket_factory(unacknowledged_seconds: float) -> Callable[[Any], socket.socket]:
    """A factory of sockets for aiohttp that fail when data stays unacknowledged for so long."""
    options = {
        "TCP_USER_TIMEOUT": int(unacknowledged_seconds * 1000),
        "TCP_KEEPIDLE": IDLE_SECONDS,
        "TCP_KEEPINTVL": PROBE_SECONDS,
        "TCP_KEEPCNT": PROBES,
    }

    def make(address: Any) -> socket.socket:
        family, kind, protocol, *_ = address
        made = socket.socket(family, kind, protocol)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        # Closing discards unsent data, also when the process is killed.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        for name, value in options.items():
            if hasattr(socket, name):  # all exist on Linux, some elsewhere
                made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        return made

    return make
