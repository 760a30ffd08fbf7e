"""Played coordinators: real servers over mutual TLS whose responses a test chooses."""

from __future__ import annotations

import base64
import contextlib
import itertools
import os
import ssl
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.support.kubelet import Kubelet
from tests.support.manifests import Object
from tests.support.testbed import Testbed
from trainyard.api import names
from trainyard_trainer.contract.env import COORDINATOR_PORT, PATH_METRICS, PATH_PLAN, Role

_numbers = itertools.count(1)
_NETWORK = f"127.{64 + os.getpid() % 128}"
"""Of this process: the port of coordinators is always the same."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

HONEST = b"""\
# TYPE trainyard_training info
trainyard_training_info{wire="1"} 1.0
# TYPE trainyard_training_term gauge
trainyard_training_term 1.0
# TYPE trainyard_training_members gauge
trainyard_training_members{state="active"} 1.0
# EOF
"""


def server_context(files: Mapping[str, bytes], name: str = "coordinator") -> ssl.SSLContext:
    """A context that presents the leaf of that name, of what a job's Secret holds."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=files["ca.crt"].decode())
    context.verify_mode = ssl.CERT_REQUIRED
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(files[f"{name}.crt"] + files[f"{name}.key"])
        context.load_cert_chain(file.name)
    return context


class CoordinatorKubelet(Kubelet):
    """Starts played coordinators with their pods, each at a loopback address of its own.

    `played` chooses one by the job's name; a job without one has a coordinator that nothing
    connects to.
    """

    def __init__(self, testbed: Testbed, played: Mapping[str, PlayedCoordinator]) -> None:
        super().__init__(testbed)
        self.played = played
        self._servers: dict[str, contextlib.AsyncExitStack] = {}
        """By the uid of the pod."""

    async def __aexit__(self, *error: Any) -> None:
        await super().__aexit__(*error)
        for server in self._servers.values():
            await server.aclose()

    async def handle(self, kind: str, pod: Object) -> None:
        """Start or remove the pod, if due; the server of one that is gone ends."""
        await super().handle(kind, pod)
        server = self._servers.pop(pod["metadata"]["uid"], None) if kind == "DELETED" else None
        if server is not None:
            await server.aclose()

    async def address_of(self, pod: Object) -> str:
        """Where the played coordinator of a coordinator's pod serves from now on."""
        labels = pod["metadata"]["labels"]
        number = next(_numbers)
        address = f"{_NETWORK}.{number // 250}.{number % 250 + 1}"
        job = labels[names.LABEL_JOB]
        if labels[names.LABEL_ROLE] == Role.COORDINATOR and job in self.played:
            secret = await self._kube.get(self.testbed.path("secrets", names.leaf_secret_name(job)))
            files = {name: base64.b64decode(value) for name, value in secret["data"].items()}
            serving = self.played[job].serving(address, COORDINATOR_PORT, server_context(files))
            uid = pod["metadata"]["uid"]
            server = self._servers.setdefault(uid, contextlib.AsyncExitStack())
            await server.enter_async_context(serving)
        return address


class PlayedCoordinator:
    """A coordinator that trains with one worker and accepts every Plan, unless told otherwise."""

    def __init__(self, metrics: Handler | None = None, plan: Handler | None = None) -> None:
        self.metrics, self.plan = metrics or serve_honestly, plan or accept
        self.requests: list[str] = []
        """Method and path of each request."""
        self.headers: list[Mapping[str, str]] = []
        self.connections: set[object] = set()
        """Ports of the clients that sent a request."""

    @contextlib.asynccontextmanager
    async def serving(
        self, host: str, port: int, context: ssl.SSLContext | None
    ) -> AsyncIterator[None]:
        """Serve while the context lasts."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port, ssl_context=context).start()
            yield
        finally:
            await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(f"{request.method} {request.path}")
        self.headers.append(dict(request.headers))
        if request.transport is not None:
            self.connections.add(request.transport.get_extra_info("peername"))
        if request.path == PATH_METRICS:
            return await self.metrics(request)
        if request.path == PATH_PLAN:
            return await self.plan(request)
        raise web.HTTPNotFound


async def serve_honestly(_: web.Request) -> web.StreamResponse:
    """The metrics of a job that trains with one worker."""
    return web.Response(body=HONEST)


async def accept(_: web.Request) -> web.StreamResponse:
    """The response to a Plan that is followed."""
    return web.json_response({"generation": 1})


def counting() -> PlayedCoordinator:
    """An honest coordinator, whose step rises with each scrape."""
    steps = itertools.count(1)

    async def count(_: web.Request) -> web.StreamResponse:
        step = f"# TYPE trainyard_training_step gauge\ntrainyard_training_step {next(steps)}\n"
        return web.Response(body=step.encode() + HONEST)

    return PlayedCoordinator(count)


def constant(
    body: bytes = b"", status: int = 200, headers: Mapping[str, str] | None = None
) -> Handler:
    """A handler that always gives the same response."""

    async def handle(_: web.Request) -> web.StreamResponse:
        return web.Response(body=body, status=status, headers=headers)

    return handle


def bomb(size: int) -> bytes:
    """As many metric families as fit into so many bytes."""
    lines: list[str] = []
    left = size - len("# EOF\n")
    while (left := left - len(line := f"a{len(lines):x} 1\n")) >= 0:
        lines.append(line)
    return "".join([*lines, "# EOF\n"]).encode()
