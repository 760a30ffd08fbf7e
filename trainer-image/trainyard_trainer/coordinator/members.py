"""The workers' connections, and the membership protocol between them.

It stands apart from the HTTP server: here a message becomes an event for `membership.registry`, and
its commands become messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass, field, replace
from typing import Final, assert_never

from aiohttp import WSMsgType, web

from trainyard_trainer.contract.config import JobConfig
from trainyard_trainer.contract.env import WIRE_VERSION
from trainyard_trainer.contract.exits import Result
from trainyard_trainer.contract.plan import Plan
from trainyard_trainer.coordinator.progress import Progress
from trainyard_trainer.membership import decisions
from trainyard_trainer.membership import events as nouns
from trainyard_trainer.membership.registry import Registry
from trainyard_trainer.runtime.exits import Fenced
from trainyard_trainer.transport import messages
from trainyard_trainer.transport.messages import FromWorker, Hello, Message

log = logging.getLogger(__name__)

HELLO_SECONDS: Final = 10.0
TICK_SECONDS: Final = 0.2
LEAVING_NOTICE_SECONDS: Final = 2.0
"""When all pods of a job are told to end, their signals come within this time."""
LEAVING_SECONDS: Final = 60.0
"""A coordinator that is told to end waits so long for workers that leave with it."""
LEARNING_SILENCES: Final = 2.0
"""A later coordinator waits so many silences for workers of an earlier one to come back."""


@dataclass(slots=True)
class MemberConnection:
    """One worker's WebSocket; messages to it queue, so that nobody waits for a slow one."""

    ident: str
    socket: web.WebSocketResponse
    outbox: asyncio.Queue[Message | None] = field(default_factory=asyncio.Queue)
    left_for: nouns.ViewId | None = None

    async def send_all(self) -> None:
        """Send what is queued until None, then hang up."""
        with contextlib.suppress(ConnectionError):
            while (message := await self.outbox.get()) is not None:
                await self.socket.send_str(messages.encode(message))
        await self.socket.close()


class MembershipService:
    """Who is connected, and what the protocol makes of it."""

    def __init__(self, config: JobConfig, term: int, progress: Progress) -> None:
        """A coordinator after the first one begins by learning what its workers know."""
        self.config, self.progress = config, progress
        grace = LEARNING_SILENCES * config.silence_seconds
        self.registry = Registry(
            term=term,
            minimum=config.min_workers,
            desired=config.min_workers,
            grace=grace,
            learning_until=time.monotonic() + grace if term > 1 else None,
        )
        self.plan: Plan | None = None
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Raises Fenced when a worker knows of a higher term."""
        self.closed = asyncio.Event()
        """Training has ended, until a plan goes on with it."""
        self._connections: dict[str, MemberConnection] = {}
        self._deserted = asyncio.Event()
        """Nobody is connected."""
        self._deserted.set()

    def find_complete(self) -> None:
        """Training was complete before this coordinator came: whoever connects is dismissed."""
        self.registry = replace(self.registry, closed=Result.COMPLETE)
        self.closed.set()

    async def drain(self) -> None:
        """Wait while workers leave; they hand over their state when all of a job is deleted."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEAVING_SECONDS):
                await asyncio.sleep(LEAVING_NOTICE_SECONDS)
                while any(m.leaving for m in self.registry.members.values()):  # noqa: ASYNC110
                    await asyncio.sleep(TICK_SECONDS)

    async def tick(self) -> None:
        """Let time pass in the protocol, until cancelled."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self.handle(nouns.Tick())

    def handle(self, event: nouns.Event) -> None:
        """Take an event to the protocol and carry out what it commands."""
        before = self.registry
        self.registry, commands = decisions.step(before, event, time.monotonic())
        if before.pending is not None and self.registry.pending is None and self.registry.view:
            self.progress.view_begun(self.registry.view)
        for command in commands:
            self._carry_out(command)
        if self.registry.pending not in (None, before.pending):
            log.info("announcing %s", self.registry.pending)
        if self.registry.closed is not None and self.registry.closed is not before.closed:
            log.info("training has ended: %s", self.registry.closed)
            self.closed.set()

    def set_plan(self, plan: Plan) -> None:
        """Put a plan in force: tell the workers, and the protocol how many are wanted."""
        self.plan = plan
        if not plan.suspend and self.registry.closed is not Result.COMPLETE:
            self.closed.clear()
            self.progress.digests.clear()
        for connection in self._connections.values():
            connection.outbox.put_nowait(messages.Orders(plan=plan.encode()))
        self.handle(nouns.Wanted(workers=0 if plan.suspend else plan.workers))

    def request_snapshot(self) -> None:
        """Have the first member of the view send in a checkpoint at its next step boundary."""
        view = self.registry.view
        connection = self._connections.get(view.member_ids[0]) if view is not None else None
        if connection is not None:
            connection.outbox.put_nowait(messages.Snapshot())

    async def wait_for_workers(self) -> None:
        """Wait until training has ended and the workers have gone."""
        await self.closed.wait()
        await self._deserted.wait()

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        """One worker's connection, from its Hello to its end."""
        # A ping unanswered for half of `heartbeat` closes the connection.
        socket = web.WebSocketResponse(
            heartbeat=self.config.silence_seconds / 1.5, max_msg_size=messages.MESSAGE_BYTES
        )
        await socket.prepare(request)
        try:
            first = await socket.receive_str(timeout=HELLO_SECONDS)
            hello = messages.decode_from_worker(first)
        except (TypeError, ValueError, TimeoutError) as error:
            log.warning("a worker's first message was no Hello: %s", error)
            await socket.close()
            return socket
        if isinstance(hello, Hello) and self._accept(hello):
            await self._converse(hello, socket)
        await socket.close()
        return socket

    def _accept(self, hello: Hello) -> bool:
        if hello.term > self.registry.term and not self.ended.done():
            text = f"the workers know of term {hello.term}; this coordinator has term "
            self.ended.set_exception(Fenced(text + str(self.registry.term)))
        return hello.term <= self.registry.term

    async def _converse(self, hello: Hello, socket: web.WebSocketResponse) -> None:
        connection = MemberConnection(hello.seat.member_id, socket)
        sender = asyncio.create_task(connection.send_all())
        self._welcome(hello, connection)
        try:
            if hello.wire == WIRE_VERSION:
                await self._listen(connection)
        finally:
            if self._connections.get(connection.ident) is connection:
                del self._connections[connection.ident]
                if not self._connections:
                    self._deserted.set()
                self.handle(nouns.Lost(ident=connection.ident, left_for=connection.left_for))
            connection.outbox.put_nowait(None)
            await sender

    def _welcome(self, hello: Hello, connection: MemberConnection) -> None:
        """Introduce the job to the worker, and the worker to the protocol."""
        pod = hello.seat.member_id.rpartition("/")[0]
        for other in list(self._connections.values()):
            if other.ident.rpartition("/")[0] == pod:
                self._replace(other, same=other.ident == hello.seat.member_id)
        term, config = self.registry.term, messages.as_json(self.config)
        connection.outbox.put_nowait(messages.Welcome(term=term, config=config))
        if hello.wire != WIRE_VERSION:
            return
        if self.plan is not None:
            connection.outbox.put_nowait(messages.Orders(plan=self.plan.encode()))
        self._connections[connection.ident] = connection
        self._deserted.clear()
        if hello.report is not None:
            self.progress.take(hello.report, connection.ident)
        member = nouns.Member(
            address=hello.seat,
            ready_at=time.monotonic() if hello.warm else None,
            view=hello.view.id if hello.view is not None else None,
            announced=hello.heard,
            progress=hello.progress,
            digest=hello.digest,
            stopped=hello.stopped,
            leaving=hello.leaving,
            halted=hello.halted,
        )
        self.handle(nouns.Joined(member=member, view=hello.view))

    def _replace(self, other: MemberConnection, *, same: bool) -> None:
        del self._connections[other.ident]
        if not same:
            other.outbox.put_nowait(messages.Fencing(replaced=True))
        other.outbox.put_nowait(None)
        self.handle(nouns.Lost(ident=other.ident))

    async def _listen(self, connection: MemberConnection) -> None:
        async for frame in connection.socket:
            if frame.type is not WSMsgType.TEXT:
                continue
            try:
                message = messages.decode_from_worker(frame.data)
            except ValueError as error:
                log.warning("%s sent what is no message: %s", connection.ident, error)
                return
            if self._connections.get(connection.ident) is not connection:
                return  # A newer connection has taken its place.
            self._take(connection, message)

    def _take(self, connection: MemberConnection, message: FromWorker) -> None:
        ident = connection.ident
        match message:
            case messages.Report():
                self.progress.take(message, ident)
            case messages.Goodbye():
                connection.left_for = message.left_for
            case messages.Ready():
                self.handle(nouns.Warm(ident=ident))
            case messages.Leave():
                self.handle(nouns.Leaving(ident=ident))
            case messages.Begun():
                self.handle(nouns.Began(ident=ident, view=message.view, progress=message.progress))
            case messages.Halt():
                self.handle(
                    nouns.Stopped(
                        ident=ident,
                        heard=message.heard,
                        view=message.view,
                        progress=message.progress,
                        digest=message.digest,
                    )
                )
            case messages.Finished():
                self.progress.digests[ident] = message.digest
                self.handle(
                    nouns.Halted(
                        ident=ident,
                        result=message.result,
                        progress=message.progress,
                        digest=message.digest,
                    )
                )
            case Hello():
                log.warning("%s said hello twice", ident)
            case _:
                assert_never(message)

    def _carry_out(self, command: nouns.Command) -> None:
        connection = self._connections.get(command.to)
        if connection is None:
            return  # Its loss is an event on its way.
        match command:
            case nouns.Announce():
                message: Message = messages.Announcement(view=command.view)
            case nouns.Stop():
                message = messages.Halting()
            case nouns.Fence():
                message = messages.Fencing()
            case nouns.Collect():
                message = messages.Collection(result=command.result)
            case nouns.Dismiss():
                message = messages.Dismissal(result=command.result)
            case _:
                assert_never(command)
        connection.outbox.put_nowait(message)
        if isinstance(command, nouns.Fence):
            connection.outbox.put_nowait(None)  # It comes back under a new name.
