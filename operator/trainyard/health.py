"""The operator's own HTTP endpoint: `/healthz` for probes, `/metrics` for Prometheus."""

from __future__ import annotations

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from trainyard.reconcile.controller import Controller


class HealthServer:
    """Serves while the context lasts; `port` 0 picks a free one."""

    def __init__(self, controller: Controller, host: str, port: int) -> None:
        self._controller = controller
        self._host, self._port = host, port
        app = web.Application()
        app.router.add_get("/healthz", self._health)
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None)

    async def __aenter__(self) -> HealthServer:
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._port).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _health(self, _: web.Request) -> web.Response:
        if self._controller.is_synced:
            return web.Response(text="ok\n")
        return web.Response(status=503, text="the first listing is not complete yet\n")

    async def _metrics(self, _: web.Request) -> web.Response:
        self._controller.observe()
        body = generate_latest(self._controller.deps.metrics.registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})
