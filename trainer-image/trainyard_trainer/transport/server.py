"""The base of the HTTP servers of both kinds of coordinator.

It serves mutual TLS, checks each path's role, and answers health checks, scrapes and Plans.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import Any, ClassVar, Final, Generic, TypeVar

from aiohttp import web

from trainyard_trainer.contract.env import PATH_HEALTH, PATH_METRICS, PATH_PLAN, Role
from trainyard_trainer.contract.exits import TerminationMessage
from trainyard_trainer.contract.plan import AcceptPlan, AnyPlan, StalePlan
from trainyard_trainer.runtime.exits import TrainerError
from trainyard_trainer.runtime.exposition import CONTENT_TYPE, Exposition
from trainyard_trainer.transport.listener import Listener
from trainyard_trainer.transport.tls import Credentials, names

log = logging.getLogger(__name__)

BODY_BYTES: Final = 1 << 20
"""The longest body that is not streamed."""
BODY_SECONDS: Final = 30.0
"""How long such a body may take to arrive."""
HEADER_BYTES: Final = 16 << 10
"""The longest request line or header field."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
P = TypeVar("P", bound=AnyPlan)


class JobServer(ABC, Generic[P]):
    """Serves one job, whose Plans are of type `P`."""

    roles: ClassVar[Mapping[str, Role]] = {
        PATH_METRICS: Role.OPERATOR,
        PATH_PLAN: Role.OPERATOR,
    }
    """The role that each path requires; health is open to every role of the job."""
    cancels_handlers: ClassVar[bool] = False
    """Whether a handler is cancelled when its client disconnects."""
    idle_seconds: ClassVar[float] = 75.0
    """How long a connection may be silent between two requests."""
    max_connections_per_peer: ClassVar[int | None] = None
    """Of one certificate's name; None where many processes share a name."""

    def __init__(self, credentials: Credentials, metrics: Exposition) -> None:
        """Without certificates it serves loopback alone."""
        self._credentials, self._metrics = credentials, metrics

    # --- what a kind of job adds ----------------------------------------------------------------

    @property
    @abstractmethod
    def ended(self) -> asyncio.Future[None]:
        """Fails with what ends this process early."""

    @abstractmethod
    async def wait_until_done(self) -> None:
        """Wait until the job has ended and nobody needs this process any more."""

    async def drain(self) -> None:
        """Wait for peers that end together with this process."""

    @abstractmethod
    def termination_message(self) -> TerminationMessage:
        """The state of the job as this process ends."""

    @abstractmethod
    def routes(self) -> Iterable[web.RouteDef]:
        """The routes beside health, metrics and the Plan."""

    @abstractmethod
    def background(self) -> Iterable[Coroutine[Any, Any, None]]:
        """What runs while this serves."""

    @abstractmethod
    def decode_plan(self, text: str) -> P:
        """Parse a Plan; raises ValueError."""

    @abstractmethod
    def check_plan(self, plan: P) -> AcceptPlan | StalePlan:
        """Whether `plan` may replace the one in force."""

    @abstractmethod
    def set_plan(self, plan: P) -> None:
        """Put a Plan in force."""

    async def plan_response(self, plan: P) -> dict[str, Any]:
        """The response to an accepted Plan."""
        return {"generation": plan.generation}

    def render_metrics(self) -> bytes:
        """The response to a scrape."""
        return self._metrics.render()

    # --- serving --------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def serving(self, host: str | None, port: int) -> AsyncIterator[int]:
        """Serve on `host` (None: all addresses) and `port` (0: any free one); yields the port.

        Raises TrainerError when there are no certificates and `host` is not loopback.
        """
        is_secure = self._credentials.exist
        if not is_secure and host != "127.0.0.1":
            raise TrainerError(
                f"no certificates in {self._credentials.directory}: refusing plain HTTP"
            )
        app = web.Application(middlewares=[self._authorize], client_max_size=BODY_BYTES)
        app.router.add_get(PATH_HEALTH, self._get_health)
        app.router.add_get(PATH_METRICS, self._get_metrics)
        app.router.add_put(PATH_PLAN, self._put_plan)
        app.router.add_routes(self.routes())
        runner = web.AppRunner(
            app,
            access_log=None,
            shutdown_timeout=1.0,
            handler_cancellation=self.cancels_handlers,
            keepalive_timeout=self.idle_seconds,
            max_line_size=HEADER_BYTES,
            max_field_size=HEADER_BYTES,
        )
        await runner.setup()
        context = self._credentials.server() if is_secure else None
        assert runner.server is not None  # noqa: S101 -- set by `setup`
        listener = Listener(runner.server, context, self.max_connections_per_peer)
        background: list[asyncio.Task[None]] = []
        try:
            async with listener.listening(host, port) as found:
                background += [asyncio.create_task(work) for work in self.background()]
                yield found
        finally:
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            await runner.cleanup()

    @web.middleware
    async def _authorize(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        # The handshake has already checked that the certificate has a role in this job.
        if self._credentials.exist and request.path != PATH_HEALTH:
            transport = request.transport
            found = names(transport.get_extra_info("peercert") if transport else None)
            if self._required_name(request) not in found:
                raise web.HTTPForbidden(text=f"{request.path} is not for this certificate")
        if request.headers.get("Content-Encoding", "identity") != "identity":
            # Nothing of ours compresses, and a small body can decompress to a very large one.
            raise web.HTTPUnsupportedMediaType(text="send the body without Content-Encoding")
        return await handler(request)

    def _required_name(self, request: web.Request) -> str | None:
        """The name that the client's certificate must have; None for a path that nobody may use."""
        if (role := self.roles.get(request.path)) is None:
            return None
        # A party's certificate also names the party, so that none can speak for another.
        party = request.query.get("party", "") if role is Role.PARTY else ""
        return self._credentials.peer(role, party)

    # --- handlers -------------------------------------------------------------------------------

    async def _get_health(self, request: web.Request) -> web.Response:  # noqa: ARG002
        return web.Response(text="ok")

    async def _get_metrics(self, request: web.Request) -> web.Response:  # noqa: ARG002
        return web.Response(body=self.render_metrics(), headers={"Content-Type": CONTENT_TYPE})

    async def _put_plan(self, request: web.Request) -> web.Response:
        try:
            plan = self.decode_plan((await read_body(request)).decode())
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=400)
        match self.check_plan(plan):
            case StalePlan(generation=generation, fencing_token=token):
                in_force = {"generation": generation, "fencingToken": token}
                return web.json_response(in_force, status=409)
            case AcceptPlan(is_new=True):
                log.info("%s", plan)
                self.set_plan(plan)
        return web.json_response(await self.plan_response(plan))


async def read_body(request: web.Request) -> bytes:
    """A body that is not streamed; raises an HTTP error if it is too long or too slow."""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout(text="the body did not arrive in time") from None
