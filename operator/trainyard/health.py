"""The operator's own HTTP endpoint: `/healthz` for probes, `/metrics` for Prometheus.

Whoever reaches the port may ask as often as they like: it is served by a thread of its own, asks
the controller's loop at most once a second, and keeps few connections, none of them for long.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from trainyard.cluster.threads import LoopThread
from trainyard.reconcile.controller import Controller

CACHE_SECONDS = 1.0
"""How old an answer may be."""
WAIT_SECONDS = 1.0
"""How long the controller's loop may take to take part in an answer, before it goes without."""
HUNG_SECONDS = 60.0
"""A loop that has not taken part for so long will not any more."""
MAX_CONNECTIONS = 32
"""At one time; a new one closes the oldest."""
ACCEPT_SECONDS = 0.1
"""By then a connection that was accepted is open."""
CONNECTION_SECONDS = 10.0
"""Lifetime of a connection."""


class HealthServer:
    """Serves while the context lasts; `port` 0 picks a free one."""

    def __init__(self, controller: Controller, host: str, port: int, timeout: timedelta) -> None:
        """`timeout` is how long a watch or the scheduler may go without success."""
        self._controller = controller
        self._host, self._port, self._timeout = host, port, timeout
        self._thread = LoopThread("health")
        self._controllers_loop = ControllersLoop(controller.observe)
        self._connections = _Connections()
        self._rendering = asyncio.Lock()
        self._rendered_at, self._metrics_text = float("-inf"), b""
        app = web.Application(client_max_size=1024)
        app.router.add_get("/healthz", self._health)
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=WAIT_SECONDS)
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> HealthServer:
        self._controllers_loop.loop = asyncio.get_running_loop()
        self._thread.__enter__()
        await self._thread.run(self._start())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._thread.run(self._stop())
        self._thread.__exit__()

    @property
    def port(self) -> int:
        """The port that is served."""
        assert self._server is not None, "the server was not started"  # noqa: S101
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def _start(self) -> None:
        await self._runner.setup()
        assert self._runner.server is not None  # noqa: S101 - since it is set up
        self._connections.server = self._runner.server
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._connections.accept, self._host, self._port)

    async def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
        await self._runner.cleanup()

    async def _health(self, _: web.Request) -> web.Response:
        problem = await self._problem()
        return web.Response(status=503 if problem else 200, text=f"{problem or 'ok'}\n")

    async def _problem(self) -> str:
        if not self._controller.is_synced:
            return "the first listing is not complete yet"
        silent_seconds = await self._controllers_loop.refresh()
        if silent_seconds > HUNG_SECONDS:
            return f"the controller has been busy for {silent_seconds:.0f} s"
        if stalled := self._controller.deps.activity.stalled(self._timeout):
            return f"no success for {self._timeout.total_seconds():g} s: {', '.join(stalled)}"
        return ""

    async def _metrics(self, _: web.Request) -> web.Response:
        async with self._rendering:
            if time.monotonic() - self._rendered_at > CACHE_SECONDS:
                await self._controllers_loop.refresh()
                self._metrics_text = generate_latest(self._controller.deps.metrics.registry)
                self._rendered_at = time.monotonic()
        return web.Response(body=self._metrics_text, headers={"Content-Type": CONTENT_TYPE_LATEST})


class ControllersLoop:
    """Has the controller's loop update the gauges, which also shows whether it still runs."""

    def __init__(self, observe: Callable[[], None]) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self._observe = observe
        self._observed_at = time.monotonic()
        self._pending: asyncio.Future[None] | None = None

    async def refresh(self) -> float:
        """Wait a moment for the loop; returns the seconds for which it has not responded."""
        if time.monotonic() - self._observed_at > CACHE_SECONDS:
            if self._pending is None or self._pending.done():
                self._pending = self._request()
            await asyncio.wait({self._pending}, timeout=WAIT_SECONDS)
        return time.monotonic() - self._observed_at

    def _request(self) -> asyncio.Future[None]:
        own = asyncio.get_running_loop()
        pending: asyncio.Future[None] = own.create_future()

        def respond() -> None:
            try:
                self._observe()
            finally:
                self._observed_at = time.monotonic()
                own.call_soon_threadsafe(pending.set_result, None)

        assert self.loop is not None, "the server was not started"  # noqa: S101
        self.loop.call_soon_threadsafe(respond)
        return pending


class _Connections:
    """Accepts connections, few at a time and each for a moment."""

    def __init__(self) -> None:
        self.server: web.Server | None = None

    def accept(self) -> web.RequestHandler:
        """The protocol of a new connection."""
        assert self.server is not None, "the server was not started"  # noqa: S101
        loop, handler = asyncio.get_running_loop(), self.server()
        self._close_all_but(MAX_CONNECTIONS - 1)
        # Those that were accepted at the same moment have no transport yet that could be closed.
        loop.call_later(ACCEPT_SECONDS, self._close_all_but, MAX_CONNECTIONS)
        loop.call_later(CONNECTION_SECONDS, handler.force_close)
        return handler

    def _close_all_but(self, count: int) -> None:
        """Close the oldest connections."""
        assert self.server is not None, "the server was not started"  # noqa: S101
        connections = self.server.connections
        for handler in connections[: max(len(connections) - count, 0)]:
            handler.force_close()
