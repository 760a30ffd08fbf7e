"""The HTTP session with which kopf lists and watches our own kinds.

kopf decodes whatever the API server sends, and ends on most errors. Here pass only pages of bounded
size, objects reduced to what identifies them with the rest as one string, and errors after which
kopf lists again: no object of a user can end, blind or bloat the process.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any, cast

import aiohttp
import msgspec
from aiohttp.client_middlewares import ClientHandlerType

from trainyard.api import names
from trainyard.api.jobs import JobObject, UnreadableJobError, read_job
from trainyard.cluster.activity import Activity
from trainyard.cluster.client import KubeClient
from trainyard.cluster.decoding import (
    UNREADABLE,
    WatchEvent,
    decode_events,
    decode_meta,
    decode_page,
    decode_status,
)
from trainyard.cluster.errors import ApiError
from trainyard.cluster.paging import JOB_PAGE_SIZE, BoundedResponse, OversizedPageError, PageLimit
from trainyard.cluster.restore import is_restored

log = logging.getLogger(__name__)

KINDS = {plural: kind for kind, plural in names.PLURALS.items()}
HANDLED = (401, 403, 429)
"""Refusals after which kopf logs in again or retries; it ends on all others below 500."""
PAUSE_SECONDS = 1.0
EXPIRED = {"type": "ERROR", "object": {"code": 410, "message": "begin with a listing"}}
"""The one error in a watch after which kopf lists again; it ends on all others."""


async def job_session(client: KubeClient, activity: Activity) -> aiohttp.ClientSession:
    """A session with the client's server, credentials and sockets."""
    return client.new_session(
        headers=await client.headers(),
        response_class=JobResponse,
        middlewares=(_Middleware(client, activity),),
    )


class JobResponse(BoundedResponse):
    """A response whose listed jobs are encoded strings."""

    async def json(self, **options: Any) -> Any:
        """The decoded body."""
        kind = _listed_kind(self)
        if not kind:
            return await super().json(**options)
        try:
            page = await decode_page(await self.read())
        except msgspec.MsgspecError as error:
            raise aiohttp.ClientPayloadError(f"a listing of {kind}s: {error}") from error
        meta = {
            "resourceVersion": page.metadata.resource_version,
            "continue": page.metadata.continue_,
        }
        found = (_encoded(item, kind) for item in page.items)
        return {"metadata": meta, "items": [item for item in found if item is not None]}


class _Middleware:
    """Bounds the pages of listings, and turns the errors on which kopf would end."""

    def __init__(self, client: KubeClient, activity: Activity) -> None:
        self._client, self._activity = client, activity
        self._limits: dict[str, PageLimit] = {}

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: ClientHandlerType
    ) -> aiohttp.ClientResponse:
        path = request.url.path
        kind = KINDS.get(path.rpartition("/")[2], "")
        if not kind:
            return await handler(request)
        self._activity.expect(path)
        if "watch" in request.url.query:
            response = await self._watch(request, handler, kind)
        else:
            response = await self._list(request, handler)
        if 400 <= response.status < 500 and response.status not in HANDLED:
            text = await response.text()
            log.warning("%s begins afresh after status %d: %s", path, response.status, text[:500])
            await asyncio.sleep(PAUSE_SECONDS)
            raise aiohttp.ClientPayloadError(f"status {response.status}")  # kopf lists again
        return response

    async def _list(
        self, request: aiohttp.ClientRequest, handler: ClientHandlerType
    ) -> aiohttp.ClientResponse:
        """A page, with fewer objects if these are large."""
        path = request.url.path
        limit = self._limits.setdefault(path, PageLimit(JOB_PAGE_SIZE))
        while True:
            url = request.url.update_query(limit=str(limit.objects))
            request.url = request.original_url = url
            response = await handler(request)
            try:
                await response.read()
            except OversizedPageError:
                limit.shrink()
                continue
            if response.ok:
                limit.grow()
                self._activity.record(path)
            return response

    async def _watch(
        self, request: aiohttp.ClientRequest, handler: ClientHandlerType, kind: str
    ) -> aiohttp.ClientResponse:
        is_restored = await self._is_restored(request)
        response = await handler(request)
        if response.ok:
            self._activity.record(request.url.path)
            events = _Events(response.content, kind, self._activity, request.url.path)
            events.is_expired = is_restored
            response.content = cast(aiohttp.StreamReader, events)
        return response

    async def _is_restored(self, request: aiohttp.ClientRequest) -> bool:
        reached = request.url.query.get("resourceVersion", "0")
        try:
            return await is_restored(self._client, request.url.path, reached)
        except (ApiError, msgspec.MsgspecError):
            return False  # the watch itself shows what is wrong


class _Events:
    """The content of a watch, as far as kopf reads it: whole lines, each a small event."""

    def __init__(
        self, content: aiohttp.StreamReader, kind: str, activity: Activity, source: str
    ) -> None:
        self._content, self._kind = content, kind
        self._activity, self._source = activity, source
        self.is_expired = False
        """Whether kopf should list again before it watches."""

    def __getattr__(self, name: str) -> Any:
        """All else is the content's own, for the response that it belongs to."""
        return getattr(self._content, name)

    async def iter_chunked(self, _: int) -> AsyncIterator[bytes]:
        """One line at a time."""
        if self.is_expired:
            yield _line(EXPIRED)
            return
        try:
            async for line in self._lines():
                yield line
        except (msgspec.MsgspecError, ValueError, LookupError):
            log.exception("the watch of %ss begins afresh", self._kind)
            await asyncio.sleep(PAUSE_SECONDS)
            yield _line(EXPIRED)

    async def _lines(self) -> AsyncIterator[bytes]:
        async for event in decode_events(self._content):
            if event is UNREADABLE:
                await asyncio.sleep(PAUSE_SECONDS)
            self._activity.record(self._source)
            if (reduced := _reduced(event, self._kind)) is not None:
                yield _line(reduced)


def _reduced(event: WatchEvent, kind: str) -> dict[str, Any] | None:
    """The event for kopf; None if its job cannot be read."""
    if event is UNREADABLE:
        return EXPIRED
    if event.type == "ERROR":
        status = decode_status(event.object)
        level = logging.DEBUG if status.code == 410 else logging.WARNING
        log.log(level, "the watch of %ss has ended: %s", kind, status.message)
        return EXPIRED
    if event.type == "BOOKMARK":
        version = decode_meta(event.object).resource_version
        return {"type": event.type, "object": {"metadata": {"resourceVersion": version}}}
    found = _encoded(event.object, kind)
    return None if found is None else {"type": event.type, "object": found}


def _encoded(encoded: msgspec.Raw, kind: str) -> dict[str, Any] | None:
    """The job as kopf gets it: what identifies it, and all that the operator reads as a string."""
    try:
        found = read_job(encoded, kind)
    except UnreadableJobError as error:
        log.error("%s", error)
        return None
    return {
        "apiVersion": names.API_VERSION,
        "kind": found.kind,
        "metadata": _identity(found),
        "encoded": found.compact().decode(),
    }


def _identity(found: JobObject) -> dict[str, str]:
    meta = found.metadata
    return {
        "name": meta.name,
        "namespace": meta.namespace,
        "uid": meta.uid,
        "resourceVersion": meta.resource_version,
    }


def _listed_kind(response: aiohttp.ClientResponse) -> str:
    """The kind that a response lists; empty if it lists none."""
    kind = KINDS.get(response.url.path.rpartition("/")[2], "")
    return kind if response.ok else ""


def _line(event: dict[str, Any]) -> bytes:
    return msgspec.json.encode(event) + b"\n"
