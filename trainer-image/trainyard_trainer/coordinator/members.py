"""The workers' connections, and the membership state machine that their messages drive."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass, field, replace
from typing import Final

from aiohttp import WSMsgType, web

from trainyard_trainer.contract.config import JobConfig
from trainyard_trainer.contract.env import WIRE_VERSION
from trainyard_trainer.contract.exits import Result
from trainyard_trainer.contract.plan import Plan
from trainyard_trainer.coordinator.progress import Progress
from trainyard_trainer.membership import decisions
from trainyard_trainer.membership.events import Disconnected, Event, Tick
from trainyard_trainer.membership.messages import (
    BuildFailed,
    Exclude,
    Fence,
    Finished,
    Hello,
    Message,
    PlanUpdate,
    ProgressReport,
    SnapshotRequest,
    TaskRaised,
    Welcome,
    WorkerMessage,
)
from trainyard_trainer.membership.registry import Registry
from trainyard_trainer.runtime.exits import Fenced
from trainyard_trainer.transport import codec

log = logging.getLogger(__name__)

HELLO_SECONDS: Final = 10.0
TICK_SECONDS: Final = 0.2
LEAVING_NOTICE_SECONDS: Final = 2.0
"""When all pods of a job are terminated, their signals come within this time."""
LEAVING_SECONDS: Final = 60.0
"""How long a coordinator that is terminated waits for workers that leave with it."""
REJOIN_SILENCES: Final = 2.0
"""How many silences a later coordinator waits for the workers of an earlier one to reconnect."""


@dataclass(slots=True)
class MemberConnection:
    """One worker's WebSocket; messages to it queue, so that nobody waits for a slow one."""

    member_id: str
    socket: web.WebSocketResponse
    outbox: asyncio.Queue[Message | None] = field(default_factory=asyncio.Queue)

    async def send_all(self) -> None:
        """Send what is queued until None, then close the connection."""
        with contextlib.suppress(ConnectionError):
            while (message := await self.outbox.get()) is not None:
                await self.socket.send_str(codec.encode(message))
        await self.socket.close()


class MembershipService:
    """Holds the workers' connections and runs the coordinator's half of the protocol."""

    def __init__(self, config: JobConfig, term: int, progress: Progress) -> None:
        """A coordinator after the first one first waits for the workers to reconnect."""
        self.config, self.progress = config, progress
        rejoin_seconds = REJOIN_SILENCES * config.silence_seconds
        self.registry = Registry(
            term=term,
            minimum=config.min_workers,
            desired=config.min_workers,
            rejoin_seconds=rejoin_seconds,
            stuck_seconds=config.stuck_seconds,
            rejoin_deadline=time.monotonic() + rejoin_seconds if term > 1 else None,
        )
        self.plan: Plan | None = None
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Raises Fenced when a worker knows of a higher term."""
        self.training_ended = asyncio.Event()
        """Set when training has ended, until a plan resumes it."""
        self._connections: dict[str, MemberConnection] = {}
        self._all_disconnected = asyncio.Event()
        """Set while nobody is connected."""
        self._all_disconnected.set()

    def mark_complete(self) -> None:
        """Dismiss whoever connects: training was complete before this coordinator started."""
        self.registry = replace(self.registry, result=Result.COMPLETE)
        self.training_ended.set()

    async def drain(self) -> None:
        """Wait for workers to leave; they upload their state when the whole job is deleted."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEAVING_SECONDS):
                await asyncio.sleep(LEAVING_NOTICE_SECONDS)
                while any(m.leaving for m in self.registry.members.values()):  # noqa: ASYNC110
                    await asyncio.sleep(TICK_SECONDS)

    async def tick(self) -> None:
        """Send the state machine a Tick now and then, until cancelled."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self.handle(Tick(usual_step_seconds=self.progress.usual_step_seconds or 0.0))

    def handle(self, event: Event) -> None:
        """Pass an event to the state machine and send what it commands."""
        before = self.registry
        self.registry, commands = decisions.step(before, event, time.monotonic())
        if before.pending is not None and self.registry.pending is None and self.registry.view:
            self.progress.view_entered(self.registry.view)
        for to, message in commands:
            if isinstance(message, Exclude):
                log.warning("leaving out %s: %s", to, message.reason)
            self._send(to, message)
        if self.registry.pending not in (None, before.pending):
            log.info("announcing %s", self.registry.pending)
        if self.registry.result is not None and self.registry.result is not before.result:
            log.info("training has ended: %s", self.registry.result)
            self.training_ended.set()

    def set_plan(self, plan: Plan) -> None:
        """Put a plan in force: send it to the workers, and have the state machine follow it."""
        self.plan = plan
        if not plan.suspend and not self.registry.is_final:
            self.training_ended.clear()
            self.progress.digests.clear()
        for connection in self._connections.values():
            connection.outbox.put_nowait(PlanUpdate(plan=plan.encode()))
        self.handle(plan)

    def request_snapshot(self) -> bool:
        """Have the view's first member upload a checkpoint at its next step boundary.

        Returns whether it is connected.
        """
        view = self.registry.view
        connection = self._connections.get(view.member_ids[0]) if view is not None else None
        if connection is not None:
            connection.outbox.put_nowait(SnapshotRequest())
        return connection is not None

    async def wait_for_workers(self) -> None:
        """Wait until training has ended and all workers have disconnected."""
        await self.training_ended.wait()
        await self._all_disconnected.wait()

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        """Serve one worker's connection, from its Hello to its end."""
        # A ping unanswered for half of `heartbeat` closes the connection.
        socket = web.WebSocketResponse(
            heartbeat=self.config.silence_seconds / 1.5, max_msg_size=codec.MESSAGE_BYTES
        )
        await socket.prepare(request)
        try:
            first = await socket.receive_str(timeout=HELLO_SECONDS)
            hello = codec.decode_from_worker(first)
        except (TypeError, ValueError, TimeoutError) as error:
            log.warning("a worker's first message is not a Hello: %s", error)
            await socket.close()
            return socket
        if isinstance(hello, Hello) and self._check_term(hello):
            await self._serve_member(hello, socket)
        await socket.close()
        return socket

    def _check_term(self, hello: Hello) -> bool:
        if hello.term > self.registry.term and not self.ended.done():
            text = f"the workers have met term {hello.term}; this coordinator has term "
            self.ended.set_exception(Fenced(text + str(self.registry.term)))
        return hello.term <= self.registry.term

    async def _serve_member(self, hello: Hello, socket: web.WebSocketResponse) -> None:
        connection = MemberConnection(hello.address.member_id, socket)
        sender = asyncio.create_task(connection.send_all())
        self._welcome(hello, connection)
        try:
            if hello.wire == WIRE_VERSION:
                await self._receive_all(connection)
        finally:
            if self._connections.get(connection.member_id) is connection:
                del self._connections[connection.member_id]
                if not self._connections:
                    self._all_disconnected.set()
                self.handle(Disconnected(member_id=connection.member_id))
            connection.outbox.put_nowait(None)
            await sender

    def _welcome(self, hello: Hello, connection: MemberConnection) -> None:
        """Send the worker the job's configuration, and pass its Hello to the state machine."""
        pod = connection.member_id.rpartition("/")[0]
        for other in list(self._connections.values()):
            if other.member_id.rpartition("/")[0] == pod:
                self._replace(other, is_same=other.member_id == connection.member_id)
        config = codec.encode_config(self.config)
        connection.outbox.put_nowait(Welcome(term=self.registry.term, config=config))
        if hello.wire != WIRE_VERSION:
            return
        if self.plan is not None:
            connection.outbox.put_nowait(PlanUpdate(plan=self.plan.encode()))
        self._connections[connection.member_id] = connection
        self._all_disconnected.clear()
        if hello.report is not None:
            self.progress.record(hello.report)
        self.handle((connection.member_id, hello))

    def _replace(self, other: MemberConnection, *, is_same: bool) -> None:
        """End a connection in favor of a newer one, of the same worker or of its successor."""
        del self._connections[other.member_id]
        if not is_same:
            other.outbox.put_nowait(Fence(replaced=True))
        other.outbox.put_nowait(None)
        self.handle(Disconnected(member_id=other.member_id))

    async def _receive_all(self, connection: MemberConnection) -> None:
        async for frame in connection.socket:
            if frame.type is not WSMsgType.TEXT:
                continue
            try:
                message = codec.decode_from_worker(frame.data)
            except ValueError as error:
                log.warning("%s sent an invalid message: %s", connection.member_id, error)
                return
            if self._connections.get(connection.member_id) is not connection:
                return  # A newer connection has replaced it.
            self._receive(connection.member_id, message)

    def _receive(self, member_id: str, message: WorkerMessage) -> None:
        match message:
            case ProgressReport():
                self.progress.record(message)
            case Hello():
                log.warning("%s sent a second Hello", member_id)
            case _:
                if isinstance(message, Finished):
                    self.progress.digests[member_id] = message.digest
                if isinstance(message, BuildFailed):
                    log.warning("%s cannot prepare a view: %s", member_id, message.reason)
                if isinstance(message, TaskRaised):
                    text = "%s ends in iteration %d: %s"
                    log.warning(text, member_id, message.iteration, message.reason)
                self.handle((member_id, message))

    def _send(self, to: str, message: Message) -> None:
        connection = self._connections.get(to)
        if connection is None:
            return  # That it is disconnected is an event on its way.
        connection.outbox.put_nowait(message)
        if isinstance(message, Fence):
            connection.outbox.put_nowait(None)  # It comes back under a new id.
