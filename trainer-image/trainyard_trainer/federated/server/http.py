"""The aggregator's HTTP endpoints: who may call them, and how bytes get in and out."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Iterable, Iterator
from typing import Any, ClassVar, Final

import msgspec
from aiohttp import web

from trainyard_trainer.contract.env import WIRE_VERSION, Role
from trainyard_trainer.contract.exits import TerminationMessage
from trainyard_trainer.contract.federated import (
    PATH_EVALUATION,
    PATH_MODEL,
    PATH_ROUND,
    PATH_UPDATE,
    FederatedPlan,
    RefusalReason,
)
from trainyard_trainer.contract.plan import AcceptPlan, StalePlan
from trainyard_trainer.federated.protocol.messages import UploadResult, parse_evaluation
from trainyard_trainer.federated.protocol.wire import UpdateRefused, trailer
from trainyard_trainer.federated.server.aggregator import Aggregator
from trainyard_trainer.federated.server.metrics import AggregatorMetrics
from trainyard_trainer.federated.server.spool import UpdateUpload
from trainyard_trainer.runtime import checkpoint
from trainyard_trainer.runtime.exits import StateUnusable
from trainyard_trainer.transport.server import JobServer, read_body
from trainyard_trainer.transport.tls import Credentials

log = logging.getLogger(__name__)

POLL_SECONDS: Final = 20.0
"""The longest that a poll waits; proxies give up on silent connections after a minute."""
MAX_POLLS: Final = 4
"""Open polls per party; more are a mistake, or an attack."""
THREAD_BYTES: Final = 256 << 10
"""Chunks above this size are validated in a thread, to keep the event loop responsive; so is the
header, whatever its size."""
DISCARD_SECONDS: Final = 30.0
"""How long the rest of a refused body is read; then the connection is closed."""
FINAL_SCRAPE_SECONDS: Final = 15.0
"""How long the last metrics wait to be scraped: three of the operator's usual intervals."""


class AggregatorServer(JobServer[FederatedPlan]):
    """Serves one aggregator."""

    roles: ClassVar = {
        **JobServer.roles,
        PATH_ROUND: Role.PARTY,
        PATH_MODEL: Role.PARTY,
        PATH_UPDATE: Role.PARTY,
        PATH_EVALUATION: Role.PARTY,
    }
    cancels_handlers: ClassVar = True  # A party that disconnects while it waits has left.
    max_connections_per_peer: ClassVar = 16
    idle_seconds: ClassVar = 86_400.0  # A party's connection is silent while it trains.

    def __init__(self, aggregator: Aggregator, credentials: Credentials) -> None:
        """Without certificates it serves loopback alone."""
        super().__init__(credentials, AggregatorMetrics(aggregator))
        self.aggregator = aggregator
        self._uploads: dict[str, asyncio.Task[object]] = {}
        self._downloads: dict[str, asyncio.Task[object]] = {}
        self._is_scraped = False
        self._final_scrape = asyncio.Event()
        """Set when the metrics have been scraped after the end."""

    def routes(self) -> Iterable[web.RouteDef]:
        """The parties' endpoints."""
        return (
            web.get(PATH_ROUND, self._get_round),
            web.delete(PATH_ROUND, self._leave),
            web.get(PATH_MODEL, self._send_model),
            web.put(PATH_UPDATE, self._put_update),
            web.post(PATH_EVALUATION, self._post_evaluation),
        )

    def background(self) -> Iterable[Coroutine[Any, Any, None]]:
        """The aggregator's own work."""
        return (self.aggregator.run(),)

    # --- the process ----------------------------------------------------------------------------

    @property
    def ended(self) -> asyncio.Future[None]:
        """Fails with what ends the aggregator early."""
        return self.aggregator.ended

    async def wait_until_done(self) -> None:
        """Wait until the federation is over, its parties know, and its metrics were scraped.

        Forever if the state would be lost with this pod.
        """
        if not self.aggregator.config.durable:
            await asyncio.Event().wait()
        await self.aggregator.wait_for_parties()
        if self._is_scraped:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FINAL_SCRAPE_SECONDS):
                    await self._final_scrape.wait()

    def termination_message(self) -> TerminationMessage:
        """The state of the federation as its aggregator ends."""
        return self.aggregator.termination_message()

    # --- the operator ---------------------------------------------------------------------------

    def render_metrics(self) -> bytes:
        """The response to a scrape."""
        self._is_scraped = True
        if self.aggregator.closed.is_set():
            self._final_scrape.set()
        return super().render_metrics()

    def decode_plan(self, text: str) -> FederatedPlan:
        """Parse a Plan; raises ValueError."""
        return FederatedPlan.decode(text)

    def check_plan(self, plan: FederatedPlan) -> AcceptPlan | StalePlan:
        """Whether `plan` may replace the one in force."""
        return self.aggregator.check_plan(plan)

    def set_plan(self, plan: FederatedPlan) -> None:
        """Put a Plan in force for the rounds to come."""
        self.aggregator.set_plan(plan)
        if not self.aggregator.closed.is_set():
            self._final_scrape.clear()

    # --- parties --------------------------------------------------------------------------------

    def _identify(self, request: web.Request) -> str:
        """The party that sends the request; raises an HTTP error for one that cannot take part."""
        party, wire = request.query.get("party", ""), request.query.get("wire", "")
        if wire != str(WIRE_VERSION):
            text = (
                f"the party speaks wire version {wire[:20]}, this aggregator {WIRE_VERSION}: "
                "use images of the same release"
            )
            log.warning("%s: %s", party[:100], text)
            raise web.HTTPUpgradeRequired(text=text)
        if party not in self.aggregator.parties:
            # It may be one soon: a party's pod can start before the Plan that adds it arrives.
            raise web.HTTPNotFound(text=f"{party[:100]!r} is not a party of this federation")
        try:
            self.aggregator.seen(party, _integer(request, "term"))
        except UpdateRefused as refused:
            log.warning("a request of %s is refused (%s): %s", party, refused.reason, refused)
            raise web.HTTPBadRequest(text=str(refused)) from None
        self.aggregator.connections[party].opened(request.protocol)
        return party

    async def _get_round(self, request: web.Request) -> web.Response:
        aggregator, party = self.aggregator, self._identify(request)
        if request.query.get("ready") == "1":
            aggregator.joined(party)
            if aggregator.connections[party].polls >= MAX_POLLS:
                text = f"{party} waits on {MAX_POLLS} connections already"
                raise web.HTTPTooManyRequests(text=text)
            if not await aggregator.wait_for_instruction(party, POLL_SECONDS):
                return web.Response(status=204)
        body = msgspec.json.encode(aggregator.announcement(party))
        return web.Response(body=body, content_type="application/json")

    async def _leave(self, request: web.Request) -> web.Response:
        party = self._identify(request)
        log.info("%s leaves", party)
        self.aggregator.left(party)
        return web.Response(text="ok")

    async def _send_model(self, request: web.Request) -> web.StreamResponse:
        party = self._identify(request)
        model = await self.aggregator.model_to_send()
        if model is None:
            raise web.HTTPNotFound(text="there is no model yet")
        with self._only_one(self._downloads, party), model.path.open("rb") as file:
            end = trailer(model.checksum)
            size = model.size + len(end)
            response = web.StreamResponse(headers={"Content-Length": str(size)})
            await response.prepare(request)
            try:
                async with asyncio.timeout_at(self.aggregator.transfer_deadline):
                    while chunk := await asyncio.to_thread(file.read, checkpoint.CHUNK_BYTES):
                        await response.write(chunk)
                    await response.write_eof(end)
            except TimeoutError:
                log.warning("%s reads the model too slowly for its round", party)
                if request.transport is not None:
                    request.transport.abort()
                return response
        self.aggregator.sent(party, size)
        return response

    async def _put_update(self, request: web.Request) -> web.Response:
        party = self._identify(request)
        with self._only_one(self._uploads, party):
            try:
                await self._receive(request, party)
            except UpdateRefused as refused:
                await self._discard_body(request)
                log.warning("an update of %s is refused (%s): %s", party, refused.reason, refused)
                self.aggregator.refuse(party, refused.reason)
                return _refusal_response(refused)
        return _upload_response(UploadResult())

    @contextlib.contextmanager
    def _only_one(self, transfers: dict[str, asyncio.Task[object]], party: str) -> Iterator[None]:
        """Register the current task as the party's transfer, and cancel an older one.

        The party has started again, and its old connection may never end.
        """
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 -- a handler runs in one
        if (older := transfers.get(party)) is not None:
            older.cancel()
        transfers[party] = task
        try:
            yield
        finally:
            if transfers.get(party) is task:
                del transfers[party]

    async def _receive(self, request: web.Request, party: str) -> None:
        """Stream an update into the spool; raises UpdateRefused, and then leaves nothing there."""
        aggregator = self.aggregator
        number, term = _integer(request, "round"), _integer(request, "term")
        if not aggregator.expects_update(party, term, number):
            await self._discard_body(request)
            return  # The response to it was lost in transit.
        upload = aggregator.open_upload()
        try:
            async with asyncio.timeout_at(aggregator.transfer_deadline):
                await _feed(request, upload)
            aggregator.accept(party, upload, number)
        except TimeoutError:
            upload.discard()
            text = "it was not complete by the deadline of its round"
            raise UpdateRefused(RefusalReason.ROUND, text) from None
        except StateUnusable as error:
            upload.discard()
            aggregator.fail(error)
            raise
        except BaseException:
            upload.discard()
            raise

    async def _discard_body(self, request: web.Request) -> None:
        """Read the rest of the body, so that the party receives the response.

        Gives up on a body that is larger than an update, or slow.
        """
        left = self.aggregator.max_update_bytes
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DISCARD_SECONDS):
                async for chunk in request.content.iter_chunked(checkpoint.CHUNK_BYTES):
                    left -= len(chunk)
                    if left < 0:
                        return

    async def _post_evaluation(self, request: web.Request) -> web.Response:
        party = self._identify(request)
        try:
            report = parse_evaluation(await read_body(request))
        except UpdateRefused as refused:
            log.warning("an evaluation of %s is refused: %s", party, refused)
            self.aggregator.refuse_evaluation(party)
            return _refusal_response(refused)
        self.aggregator.evaluate(party, report)
        return web.Response(text="ok")


async def _feed(request: web.Request, upload: UpdateUpload) -> None:
    async for chunk in request.content.iter_chunked(checkpoint.CHUNK_BYTES):
        if len(chunk) > THREAD_BYTES or upload.metadata is None:
            await asyncio.to_thread(upload.feed, chunk)
        else:
            upload.feed(chunk)


def _upload_response(result: UploadResult, status: int = 200) -> web.Response:
    return web.json_response(body=msgspec.json.encode(result), status=status)


def _refusal_response(refused: UpdateRefused) -> web.Response:
    result = UploadResult(refusal=refused.reason, message=str(refused))
    return _upload_response(result, status=422)


def _integer(request: web.Request, name: str) -> int:
    try:
        return int(request.query.get(name, "0")[:20])
    except ValueError:
        raise web.HTTPBadRequest(text=f"{name} is not a number") from None
