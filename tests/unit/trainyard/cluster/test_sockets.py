"""What a TLS connection reserves."""

from __future__ import annotations

import asyncio
import ssl
from asyncio.sslproto import SSLProtocol

import pytest

from trainyard.cluster.sockets import TLS_BUFFER_BYTES, shrink_tls_buffers


async def test_tls_connections_reserve_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SSLProtocol, "max_size", SSLProtocol.max_size)  # as it was, afterwards
    shrink_tls_buffers()
    loop, context = asyncio.get_running_loop(), ssl.create_default_context()
    connection = SSLProtocol(loop, asyncio.Protocol(), context, loop.create_future())
    assert len(connection.get_buffer(-1)) == TLS_BUFFER_BYTES
    connection._app_transport.close()
