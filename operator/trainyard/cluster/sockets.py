"""Sockets to the API server whose bytes arrive soon or never.

A request that waits in this machine's buffers while the network is away would arrive whenever it
comes back, and carry out what was decided long before; and a watch whose peer is gone without a
word would stay silent for ever.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from typing import Any

UNACKNOWLEDGED_SECONDS = 5
"""As long as the default times leave between the end of a term of office and the next one."""
IDLE_SECONDS = 10
"""After so long without a word the other side is asked whether it is there, and again..."""
PROBE_SECONDS = 5
PROBES = 3


def socket_factory(unacknowledged_seconds: float) -> Callable[[Any], socket.socket]:
    """Makes sockets for aiohttp that give up when nothing is acknowledged for so long."""
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
        # Closing forgets what was not sent yet, also when the process is killed.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        for name, value in options.items():
            if hasattr(socket, name):  # Linux has all of them, other systems some
                made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        return made

    return make
