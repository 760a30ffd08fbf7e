"""The coordinator of a DistributedJob: its HTTP endpoints, and what they call."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Iterable
from pathlib import Path
from typing import Any, ClassVar, Final

from aiohttp import web

from trainyard_trainer.contract.config import JobConfig
from trainyard_trainer.contract.env import PATH_MEMBER, PATH_STATE, Role
from trainyard_trainer.contract.exits import Result, TerminationMessage
from trainyard_trainer.contract.plan import AcceptPlan, Plan, StalePlan, plan_precedence
from trainyard_trainer.coordinator.members import MembershipService
from trainyard_trainer.coordinator.metrics import CoordinatorMetrics
from trainyard_trainer.coordinator.progress import Progress
from trainyard_trainer.coordinator.state import KINDS, SpooledUpload, StateStore, final_report
from trainyard_trainer.coordinator.uploads import UploadMonitor
from trainyard_trainer.membership.events import StateStored
from trainyard_trainer.runtime.checkpoint import CheckpointStore
from trainyard_trainer.runtime.exits import Fenced, JobFailed, StateUnusable, divergence
from trainyard_trainer.transport.server import JobServer
from trainyard_trainer.transport.tls import Credentials

log = logging.getLogger(__name__)

EFFECT_SECONDS: Final = 2.0
"""How long the response to a Plan waits for the workers to agree on its step."""
DRAIN_SECONDS: Final = 10.0
"""How long a durable coordinator that is done waits for its workers to disconnect."""


class Coordinator(JobServer[Plan]):
    """One job's coordinator; `serving` runs it."""

    roles: ClassVar = {**JobServer.roles, PATH_MEMBER: Role.WORKER, PATH_STATE: Role.WORKER}

    def __init__(
        self, config: JobConfig, term: int, directory: Path, credentials: Credentials
    ) -> None:
        """Take over the state directory; raises Fenced or StateUnusable."""
        self.config = config
        self.store = StateStore(
            CheckpointStore(directory, term, config.checkpoint_keep), config.init
        )
        self.progress = Progress(checkpoint_step=self.store.checkpoint_step())
        self.members = MembershipService(config, term, self.progress)
        self.uploads = UploadMonitor(self.progress, self._end)
        self.result: dict[str, Any] = self.store.result()
        """The content of result.json; empty until training is complete."""
        if self.result:
            self.progress.report = final_report(self.result)
            self.members.mark_complete()
        super().__init__(credentials, CoordinatorMetrics(self.members))

    def routes(self) -> Iterable[web.RouteDef]:
        """The members' WebSocket, and the state up and down."""
        return (
            web.get(PATH_MEMBER, self.members.serve),
            web.put(PATH_STATE, self._put_state),
            web.get(PATH_STATE, self._get_state),
        )

    def background(self) -> Iterable[Coroutine[Any, Any, None]]:
        """The clock of the membership protocol, and periodic checkpoints."""
        return self.members.tick(), self._request_checkpoints()

    # --- the process ----------------------------------------------------------------------------

    @property
    def ended(self) -> asyncio.Future[None]:
        """Fails with Fenced under a higher term, and with StateUnusable on a full disk."""
        return self.members.ended

    async def wait_until_done(self) -> None:
        """Wait for the end of training; forever if the state would be lost with this pod."""
        if not self.config.durable:
            await asyncio.Event().wait()
        await self.wait_for_workers()
        if self.members.registry.result is Result.FAILED:
            raise JobFailed(self.members.registry.failure)

    async def wait_for_workers(self) -> None:
        """Wait until training has ended and the workers have disconnected."""
        await self.members.training_ended.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                await self.members.wait_for_workers()

    async def drain(self) -> None:
        """Wait for workers that leave together with this coordinator."""
        await self.members.drain()

    def termination_message(self) -> TerminationMessage:
        """The state of training as the coordinator ends."""
        report = self.progress.report
        return TerminationMessage(
            result=self.members.registry.result or Result.LEFT,
            error=self.members.registry.failure or divergence(self.result),
            step=report.step,
            samples=report.samples,
            metrics={name: value for name, value in report.metrics.items() if value is not None},
        )

    # --- Plans ----------------------------------------------------------------------------------

    def decode_plan(self, text: str) -> Plan:
        """Parse a Plan; raises ValueError."""
        return Plan.decode(text)

    def check_plan(self, plan: Plan) -> AcceptPlan | StalePlan:
        """Whether `plan` may replace the one in force; the workers know its generation."""
        generation = self.progress.report.plan_generation
        return plan_precedence(self.members.plan, plan, generation_floor=generation)

    def set_plan(self, plan: Plan) -> None:
        """Announce a Plan to the workers."""
        self.members.set_plan(plan)

    async def plan_response(self, plan: Plan) -> dict[str, Any]:
        """The Plan's generation, and the step at which it takes effect if that is known."""
        if self.members.registry.view is None:
            step: int | None = self.progress.report.step  # Nobody trains: it is in force already.
        else:
            step = await self.progress.effective_step(plan.generation, EFFECT_SECONDS)
        return {**await super().plan_response(plan), "effectiveStep": step}

    # --- state ----------------------------------------------------------------------------------

    async def _get_state(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self.store.send(request)
        except StateUnusable as error:
            self._end(error)
            raise web.HTTPInternalServerError(text=str(error)) from None

    async def _put_state(self, request: web.Request) -> web.Response:
        kind = request.query.get("kind", "")
        if kind not in KINDS:
            raise web.HTTPBadRequest(text=f"kind must be one of {', '.join(KINDS)}")
        try:
            with self.uploads.counted(kind):
                if kind == "snapshot" and self.progress.checkpoint_step < 0:
                    await self._check_first(request)
                await self._keep(kind, await self.store.receive(request))
        except StateUnusable as error:
            raise web.HTTPInsufficientStorage(text=str(error)) from None
        except (ValueError, OSError) as error:
            raise web.HTTPBadRequest(text=str(error)) from None
        except Fenced as error:
            self._end(error)
            raise web.HTTPConflict(text=str(error)) from None
        source = self.members.registry.collecting_from
        if kind != "snapshot" and source is not None:
            self.members.handle(StateStored(member_id=source))
        return web.Response(text="stored")

    async def _check_first(self, request: web.Request) -> None:
        """End before much has been trained if the state directory is too small for checkpoints."""
        try:
            await self.store.check_first(request)
        except StateUnusable as error:
            self._end(error)
            raise

    def _end(self, error: Exception) -> None:
        """End the process with this error."""
        if not self.members.ended.done():
            self.members.ended.set_exception(error)

    async def _keep(self, kind: str, upload: SpooledUpload) -> None:
        if kind == "model":
            are_equal = len(set(self.progress.digests.values())) <= 1
            self.result = await self.store.on_disk(
                self.store.keep_model, upload, digests_equal=are_equal
            )
        else:
            step = await self.store.on_disk(self.store.keep_checkpoint, upload)
            self.progress.checkpoint_step = step

    async def _request_checkpoints(self) -> None:
        """Request checkpoints periodically, if they would outlive this pod.

        The first is requested after the first step: it shows whether checkpoints can be stored.
        """
        if not self.config.durable:
            return
        interval, progress = self.config.checkpoint_seconds, self.progress
        if progress.checkpoint_step >= 0:
            await asyncio.sleep(interval)
        while progress.checkpoint_step < 0 and progress.report.step == 0:
            progress.changed.clear()
            await progress.changed.wait()
        while True:
            self.uploads.check_requested()
            if self.members.request_snapshot():
                self.uploads.requested()
            await asyncio.sleep(interval)
