"""The aggregator's HTTP server: who may ask what, and how bytes get in and out.

Handlers are thin: they check who speaks, stream, and hand over to the aggregator; so the two that
stream tensors can move to threads with blocking sockets, which are faster, without the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec
from aiohttp import web

from trainyard_trainer.contract.env import PATH_HEALTH, PATH_METRICS, PATH_PLAN, WIRE_VERSION, Role
from trainyard_trainer.contract.federated import (
    PATH_EVALUATION,
    PATH_MODEL,
    PATH_ROUND,
    PATH_UPDATE,
    FederatedPlan,
    RefusalReason,
)
from trainyard_trainer.federated.protocol.layout import HEADER_BYTES
from trainyard_trainer.federated.protocol.messages import (
    MESSAGE_BYTES,
    EvaluationReport,
    UploadResult,
)
from trainyard_trainer.federated.protocol.wire import UpdateRefused, trailer
from trainyard_trainer.federated.rounds.events import Instruction
from trainyard_trainer.federated.server.aggregator import Aggregator
from trainyard_trainer.federated.server.metrics import AggregatorMetrics
from trainyard_trainer.federated.server.spool import UpdateUpload
from trainyard_trainer.runtime import checkpoint
from trainyard_trainer.runtime.exits import StateUnusable, TrainerError
from trainyard_trainer.runtime.exposition import CONTENT_TYPE
from trainyard_trainer.transport.tls import Credentials, names

log = logging.getLogger(__name__)

POLL_SECONDS: Final = 20.0
"""A party that asks is answered by then; proxies give up on silent connections after a minute."""
THREAD_BYTES: Final = 256 << 10
"""Pieces above this size are verified in a thread, so that others are answered meanwhile."""
PARTY_PATHS: Final = (PATH_ROUND, PATH_MODEL, PATH_UPDATE, PATH_EVALUATION)
BODY_SECONDS: Final = 30.0
"""For the body of a small request."""
POLLS: Final = 4
"""Connections on which one party may wait at a time; more are a mistake, or an attack."""
HEADER_LIMIT: Final = 16 << 10

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class AggregatorServer:
    """Serves one aggregator."""

    def __init__(self, aggregator: Aggregator, credentials: Credentials) -> None:
        """Without certificates it serves loopback alone."""
        self.aggregator, self.credentials = aggregator, credentials
        self._figures = AggregatorMetrics(aggregator)
        self._uploads: dict[str, asyncio.Task[object]] = {}

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
        app = web.Application(middlewares=[self._authorize], client_max_size=MESSAGE_BYTES)
        app.router.add_get(PATH_METRICS, self._metrics)
        app.router.add_get(PATH_HEALTH, self._health)
        app.router.add_put(PATH_PLAN, self._plan)
        app.router.add_get(PATH_ROUND, self._round)
        app.router.add_delete(PATH_ROUND, self._leave)
        app.router.add_get(PATH_MODEL, self._model)
        app.router.add_put(PATH_UPDATE, self._update)
        app.router.add_post(PATH_EVALUATION, self._evaluation)
        runner = web.AppRunner(
            app,
            access_log=None,
            shutdown_timeout=1.0,
            handler_cancellation=True,  # A party that hangs up while it waits has left.
            max_line_size=HEADER_LIMIT,
            max_field_size=HEADER_LIMIT,
        )
        await runner.setup()
        context = self.credentials.server() if secure else None
        await web.TCPSite(runner, host, port, ssl_context=context).start()
        work = asyncio.create_task(self.aggregator.train_config())
        try:
            yield runner.addresses[0][1]
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            await runner.cleanup()

    # --- who ------------------------------------------------------------------------------------

    @web.middleware
    async def _authorize(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self.credentials.exist and request.path != PATH_HEALTH:
            transport = request.transport
            found = names(transport.get_extra_info("peercert") if transport else None)
            if self.credentials.peer(*self._who(request)) not in found:
                raise web.HTTPForbidden(text=f"{request.path} is not for this certificate")
        if request.path in PARTY_PATHS:
            self._greet(request)
        return await handler(request)

    def _who(self, request: web.Request) -> tuple[Role, str]:
        """Whose certificate the request needs."""
        if request.path in PARTY_PATHS:
            return Role.PARTY, request.query.get("party", "")
        return Role.OPERATOR, ""

    def _greet(self, request: web.Request) -> None:
        party, wire = request.query.get("party", ""), request.query.get("wire", "")
        if wire != str(WIRE_VERSION):
            text = (
                f"the party speaks wire version {wire[:20]}, this aggregator {WIRE_VERSION}: "
                "use images of the same release"
            )
            log.warning("%s: %s", party[:100], text)
            raise web.HTTPUpgradeRequired(text=text)
        if party not in self.aggregator.parties:
            # It may be one soon: a party's pod can be quicker than the Plan that adds it.
            raise web.HTTPNotFound(text=f"{party[:100]!r} is no party of this federation")
        self.aggregator.hear(party, _number(request, "term"))

    # --- the operator ---------------------------------------------------------------------------

    async def _health(self, request: web.Request) -> web.Response:  # noqa: ARG002
        return web.Response(text="ok")

    async def _metrics(self, request: web.Request) -> web.Response:  # noqa: ARG002
        body = self._figures.render()
        self.aggregator.note_reading()
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})

    async def _plan(self, request: web.Request) -> web.Response:
        try:
            plan = FederatedPlan.decode(await _text(request))
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=400)
        known = self.aggregator.plan
        if (current := self._stale(plan)) is not None:
            return web.json_response(current, status=409)
        if plan != known:
            log.info("%s", plan)
            self.aggregator.follow(plan)
        return web.json_response({"generation": plan.generation})

    def _stale(self, plan: FederatedPlan) -> dict[str, int] | None:
        """What is in force, when `plan` must not replace it."""
        known, record = self.aggregator.plan, self.aggregator.course.record
        generation = max(known.generation if known else 0, record.generation)
        token = max(known.fencing_token if known else 0, record.fencing_token)
        # A new operator sends its predecessor's Plan again, in its own name.
        same = known is not None and replace(plan, fencing_token=known.fencing_token) == known
        is_changed = known is not None and known.generation == plan.generation and not same
        if plan.generation >= generation and plan.fencing_token >= token and not is_changed:
            return None
        return {"generation": generation, "fencingToken": token}

    # --- parties --------------------------------------------------------------------------------

    async def _round(self, request: web.Request) -> web.Response:
        aggregator, party = self.aggregator, request.query["party"]
        if request.query.get("ready") == "1":
            aggregator.apply(aggregator.course.joined(party, aggregator.now))
            if not await self._wait(party):
                return web.Response(status=204)
        body = msgspec.json.encode(aggregator.announcement(party))
        return web.Response(body=body, content_type="application/json")

    async def _wait(self, party: str) -> bool:
        """Wait until there is something to do; whether there is."""
        aggregator, contact = self.aggregator, self.aggregator.contacts[party]
        end = aggregator.now + POLL_SECONDS
        if contact.polls >= POLLS:
            raise web.HTTPTooManyRequests(text=f"{party} waits on {POLLS} connections already")
        contact.polls += 1
        try:
            while aggregator.course.instruction(party) is Instruction.WAIT and aggregator.now < end:
                await aggregator.changed(end - aggregator.now)
        except asyncio.CancelledError:
            if contact.polls == 1:
                aggregator.apply(aggregator.course.left(party, aggregator.now))
            raise
        finally:
            contact.polls -= 1
            contact.heard_at = aggregator.now
        return aggregator.course.instruction(party) is not Instruction.WAIT

    async def _leave(self, request: web.Request) -> web.Response:
        aggregator, party = self.aggregator, request.query["party"]
        log.info("%s leaves", party)
        aggregator.apply(aggregator.course.left(party, aggregator.now))
        return web.Response(text="farewell")

    async def _model(self, request: web.Request) -> web.StreamResponse:
        model, init = self.aggregator.archive.model, self.aggregator.init
        path = model.path if model is not None else init
        if path is None:
            raise web.HTTPNotFound(text="there is no model yet")
        with path.open("rb") as file:
            checksum = (
                model.checksum if model is not None else await asyncio.to_thread(_checksum, path)
            )
            size = path.stat().st_size if model is None else model.size
            end = trailer(checksum)
            response = web.StreamResponse(headers={"Content-Length": str(size + len(end))})
            await response.prepare(request)
            # A party that reads too slowly for the round is cut off at its end.
            deadline = self.aggregator.course.deadline
            async with asyncio.timeout_at(deadline if deadline < math.inf else None):
                while chunk := await asyncio.to_thread(file.read, checkpoint.CHUNK_BYTES):
                    await response.write(chunk)
                await response.write_eof(end)
        self.aggregator.contacts[request.query["party"]].sent += size + len(end)
        return response

    async def _update(self, request: web.Request) -> web.Response:
        party = request.query["party"]
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 -- a handler runs in one
        if (older := self._uploads.get(party)) is not None:
            older.cancel()  # The party has begun anew; its old connection may never end.
        self._uploads[party] = task
        try:
            await self._take(request, party)
        except UpdateRefused as refused:
            await self._drain(request)
            return self._refuse(party, refused)
        finally:
            if self._uploads.get(party) is task:
                del self._uploads[party]
        return _verdict(UploadResult())

    async def _take(self, request: web.Request, party: str) -> None:
        """Stream an update into the spool; raises Refused, and then leaves nothing."""
        aggregator, course = self.aggregator, self.aggregator.course
        number = _number(request, "round")
        term = _number(request, "term")
        if term == aggregator.term and number == course.round and party in course.accepted_updates:
            await self._drain(request)
            return  # The answer to it was lost on its way.
        if term != aggregator.term or number != course.round or not course.awaits(party):
            raise UpdateRefused(
                RefusalReason.ROUND,
                f"it is of round {number} of term {term}; awaited is "
                f"{course.round if course.awaits(party) else 'none'} of term {aggregator.term}",
            )
        upload = aggregator.spool()
        try:
            async with asyncio.timeout_at(course.deadline):
                await self._stream(request, upload)
            self._check(upload, number)
            aggregator.accept(party, upload)
        except TimeoutError:
            upload.discard()
            raise UpdateRefused(
                RefusalReason.ROUND, "it was not whole by the deadline of its round"
            ) from None
        except StateUnusable as error:
            upload.discard()
            aggregator.fail(error)
            raise
        except BaseException:
            upload.discard()
            raise

    async def _stream(self, request: web.Request, upload: UpdateUpload) -> None:
        async for chunk in request.content.iter_chunked(checkpoint.CHUNK_BYTES):
            if len(chunk) > THREAD_BYTES:
                await asyncio.to_thread(upload.feed, chunk)
            else:
                upload.feed(chunk)

    def _check(self, upload: UpdateUpload, number: int) -> None:
        """Raise Refused when the round has closed meanwhile, or the header is of another one."""
        note = upload.note
        is_same = self.aggregator.course.round == number
        if note is not None and (note.term, note.round) != (self.aggregator.term, number):
            raise UpdateRefused(
                RefusalReason.ROUND, f"its header is of round {note.round}, term {note.term}"
            )
        if not is_same:
            raise UpdateRefused(RefusalReason.ROUND, f"round {number} has closed")

    async def _drain(self, request: web.Request) -> None:
        """Read on, so that the party hears the answer; give up on what is larger than a model."""
        model = self.aggregator.archive.model
        limit = HEADER_BYTES + (model.size if model is not None else 0)
        seconds = self.aggregator.course.terms.rounds.deadline_seconds
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                async for chunk in request.content.iter_chunked(checkpoint.CHUNK_BYTES):
                    limit -= len(chunk)
                    if limit < 0:
                        return

    def _refuse(self, party: str, refused: UpdateRefused) -> web.Response:
        aggregator = self.aggregator
        log.warning("an update of %s is refused (%s): %s", party, refused.refusal, refused)
        aggregator.refuse(party, refused.refusal)
        return _verdict(UploadResult(refusal=refused.refusal, message=str(refused)), 422)

    async def _evaluation(self, request: web.Request) -> web.Response:
        try:
            report = msgspec.json.decode(await _text(request), type=EvaluationReport)
        except msgspec.MsgspecError as error:
            raise web.HTTPBadRequest(text=f"the evaluation is wrong: {error}") from None
        if report.term == self.aggregator.term:
            self.aggregator.evaluate(request.query["party"], report)
        return web.Response(text="heard")


async def _text(request: web.Request) -> str:
    """The body of a small request; raises an HTTP error when it is long or slow."""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await request.text()
    except TimeoutError:
        raise web.HTTPRequestTimeout(text="the body did not come") from None


def _verdict(verdict: UploadResult, status: int = 200) -> web.Response:
    return web.json_response(body=msgspec.json.encode(verdict), status=status)


def _number(request: web.Request, name: str) -> int:
    try:
        return int(request.query.get(name, "0")[:20])
    except ValueError:
        raise web.HTTPBadRequest(text=f"{name} is no number") from None


def _checksum(path: Path) -> int:
    checksum = 0
    for chunk in checkpoint.chunks(path):
        checksum = zlib.crc32(chunk, checksum)
    return checksum
