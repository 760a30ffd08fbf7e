"""The coordinator's HTTP server: who may ask what, and which room answers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from trainyard_trainer.contract.config import JobConfig
from trainyard_trainer.contract.env import (
    PATH_HEALTH,
    PATH_MEMBER,
    PATH_METRICS,
    PATH_PLAN,
    PATH_STATE,
    Role,
)
from trainyard_trainer.contract.plan import Plan
from trainyard_trainer.coordinator.members import MembershipService
from trainyard_trainer.coordinator.metrics import CoordinatorMetrics
from trainyard_trainer.coordinator.progress import Progress
from trainyard_trainer.coordinator.state import KINDS, StateStore, final_report
from trainyard_trainer.membership.events import StateStored
from trainyard_trainer.runtime.checkpoint import CheckpointStore
from trainyard_trainer.runtime.exits import Fenced, TrainerError
from trainyard_trainer.runtime.exposition import CONTENT_TYPE
from trainyard_trainer.transport.tls import Credentials, names

log = logging.getLogger(__name__)

ROLES: Final = {
    PATH_METRICS: (Role.OPERATOR,),
    PATH_PLAN: (Role.OPERATOR,),
    PATH_MEMBER: (Role.WORKER,),
    PATH_STATE: (Role.WORKER,),
    PATH_HEALTH: tuple(Role),
}
EFFECT_SECONDS: Final = 2.0
"""A Plan's answer waits so long for the workers to agree on its step."""
PLAN_BYTES: Final = 10_000
DRAIN_SECONDS: Final = 10.0
"""A durable coordinator that is done waits so long for its workers to hang up."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Coordinator:
    """One job's coordinator; `serving` runs it."""

    def __init__(
        self, config: JobConfig, term: int, directory: Path, credentials: Credentials
    ) -> None:
        """Claim the state directory; raises Fenced or StateUnusable."""
        self.config, self.credentials = config, credentials
        self.keeper = StateStore(
            CheckpointStore(directory, term, config.checkpoint_keep), config.init
        )
        self.progress = Progress(checkpoint_step=self.keeper.checkpoint_step())
        self.members = MembershipService(config, term, self.progress)
        self.result: dict[str, Any] = self.keeper.result()
        """The content of result.json, once training is complete."""
        if self.result:
            self.progress.report = final_report(self.result)
            self.members.mark_complete()
        self._figures = CoordinatorMetrics(self.members)

    @contextlib.asynccontextmanager
    async def serving(self, host: str | None, port: int) -> AsyncIterator[int]:
        """Serve on `port` of `host` (None for all addresses; port 0 for any, of a host): the port.

        Raises Ending when there are no certificates and `host` is not loopback.
        """
        secure = self.credentials.exist
        if not secure and host != "127.0.0.1":
            raise TrainerError(
                f"no certificates in {self.credentials.directory}: refusing plain HTTP"
            )
        app = web.Application(middlewares=[self._authorize])
        app.router.add_get(PATH_METRICS, self._metrics)
        app.router.add_get(PATH_HEALTH, self._health)
        app.router.add_put(PATH_PLAN, self._plan)
        app.router.add_get(PATH_MEMBER, self.members.serve)
        app.router.add_put(PATH_STATE, self._store)
        app.router.add_get(PATH_STATE, self.keeper.send)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        context = self.credentials.server() if secure else None
        site = web.TCPSite(runner, host, port, ssl_context=context)
        await site.start()
        background = [asyncio.create_task(work) for work in (self.members.tick(), self._save())]
        try:
            yield runner.addresses[0][1]
        finally:
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            await runner.cleanup()

    async def wait_for_workers(self) -> None:
        """Wait until training has ended and the workers have gone."""
        await self.members.training_ended.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                await self.members.wait_for_workers()

    # --- handlers -------------------------------------------------------------------------------

    @web.middleware
    async def _authorize(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self.credentials.exist:
            transport = request.transport
            found = names(transport.get_extra_info("peercert") if transport else None)
            allowed = {self.credentials.peer(role) for role in ROLES.get(request.path, ())}
            if not found & allowed:
                raise web.HTTPForbidden(text=f"{request.path} is not for this certificate's role")
        return await handler(request)

    async def _health(self, request: web.Request) -> web.Response:  # noqa: ARG002
        return web.Response(text="ok")

    async def _metrics(self, request: web.Request) -> web.Response:  # noqa: ARG002
        headers = {"Content-Type": CONTENT_TYPE}
        return web.Response(body=self._figures.render(), headers=headers)

    async def _plan(self, request: web.Request) -> web.Response:
        body = await request.content.read(PLAN_BYTES + 1)
        try:
            plan = Plan.decode(body.decode())
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=400)
        known = self.members.plan
        if (current := self._stale(plan)) is not None:
            return web.json_response(current, status=409)
        if plan != known:
            log.info("%s", plan)
            self.members.set_plan(plan)
        step = await self._effective_step(plan)
        return web.json_response({"generation": plan.generation, "effectiveStep": step})

    def _stale(self, plan: Plan) -> dict[str, int] | None:
        """What is in force, when `plan` must not replace it."""
        known = self.members.plan
        generation = max(known.generation if known else 0, self.progress.report.plan_generation)
        token = known.fencing_token if known else 0
        # A new operator sends its predecessor's Plan again, in its own name.
        same = known is not None and replace(plan, fencing_token=token) == known
        is_changed = known is not None and known.generation == plan.generation and not same
        if plan.generation >= generation and plan.fencing_token >= token and not is_changed:
            return None
        return {"generation": generation, "fencingToken": token}

    async def _effective_step(self, plan: Plan) -> int | None:
        if self.members.registry.view is None:
            return self.progress.report.step  # Nobody trains: it is in force from the start.
        return await self.progress.effective_step(plan.generation, EFFECT_SECONDS)

    async def _store(self, request: web.Request) -> web.Response:
        kind = request.query.get("kind", "")
        if kind not in KINDS:
            raise web.HTTPBadRequest(text=f"kind must be one of {', '.join(KINDS)}")
        upload = await self.keeper.receive(request)
        try:
            await self._keep(kind, upload)
        except ValueError as error:
            raise web.HTTPBadRequest(text=str(error)) from None
        except Fenced as error:
            if not self.members.ended.done():
                self.members.ended.set_exception(error)
            raise web.HTTPConflict(text=str(error)) from None
        source = self.members.registry.collecting_from
        if kind != "snapshot" and source is not None:
            self.members.handle(StateStored(member_id=source))
        return web.Response(text="stored")

    async def _keep(self, kind: str, upload: Any) -> None:
        if kind == "model":
            equal = len(set(self.progress.digests.values())) <= 1
            self.result = await asyncio.to_thread(
                self.keeper.keep_model, upload, digests_equal=equal
            )
        else:
            step = await asyncio.to_thread(self.keeper.keep_checkpoint, upload)
            self.progress.checkpoint_step = step

    # --- the job --------------------------------------------------------------------------------

    async def _save(self) -> None:
        """Ask for a checkpoint now and then, where it would outlive this pod."""
        while self.config.durable:
            await asyncio.sleep(self.config.checkpoint_seconds)
            self.members.request_snapshot()
