"""Decoding of LIST pages and WATCH events: from bytes to objects that are themselves still encoded.

Every object of a collection passes through here before anything of it is decoded.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import aiohttp
import msgspec

from trainyard.cluster.framing import bounded_lines, shown
from trainyard.cluster.nesting import prune
from trainyard.cluster.store import ObjectKey

log = logging.getLogger(__name__)


class ListMeta(msgspec.Struct, rename="camel"):
    """The metadata of a page."""

    resource_version: str
    continue_: str = msgspec.field(name="continue", default="")
    """The token of the next page; empty on the last one."""


class _PartialPage(msgspec.Struct):
    metadata: ListMeta


class Page(msgspec.Struct):
    """A page of a LIST."""

    metadata: ListMeta
    items: list[msgspec.Raw]


class WatchEvent(msgspec.Struct):
    """An event of a WATCH."""

    type: str
    """`ADDED`, `MODIFIED`, `DELETED`, `BOOKMARK` or `ERROR`; empty if it cannot be read."""
    object: msgspec.Raw


UNREADABLE = WatchEvent(type="", object=msgspec.Raw(b"{}"))
"""In the place of an event that cannot be read: only a listing finds what it was about."""


class ObjectMeta(msgspec.Struct, rename="camel"):
    """What identifies an object and its version, whatever its kind."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""

    @property
    def key(self) -> ObjectKey:
        """The object's key in a store."""
        return ObjectKey(self.namespace, self.name)


class _PartialObject(msgspec.Struct):
    metadata: ObjectMeta


class Status(msgspec.Struct):
    """The object of an `ERROR` event."""

    code: int = 0
    message: str = ""


async def decode_page(content: bytes) -> Page:
    """Decode the response to a LIST."""
    try:
        return msgspec.json.decode(content, type=Page)
    except RecursionError:
        content, mark = await asyncio.to_thread(prune, content)
    page = msgspec.json.decode(content, type=Page)
    page.items = [_flagged(item) if mark in bytes(item) else item for item in page.items]
    return page


async def decode_version(content: bytes) -> str:
    """Decode no more of the response to a LIST than its resource version."""
    try:
        return msgspec.json.decode(content, type=_PartialPage).metadata.resource_version
    except RecursionError:
        content, _ = await asyncio.to_thread(prune, content)
        return msgspec.json.decode(content, type=_PartialPage).metadata.resource_version


async def decode_events(content: aiohttp.StreamReader) -> AsyncIterator[WatchEvent]:
    """Decode the response to a WATCH, one event when it is asked for: the rest stays in the socket.

    However far behind the operator falls, the backlog is bytes on the API server's side.
    """
    async for line in bounded_lines(content.iter_any()):
        yield await _decode_event(line) if line else UNREADABLE


async def _decode_event(line: bytes) -> WatchEvent:
    try:
        return msgspec.json.decode(line, type=WatchEvent)
    except RecursionError:
        pruned, _ = await asyncio.to_thread(prune, line)
        event = msgspec.json.decode(pruned, type=WatchEvent)
        return WatchEvent(event.type, _flagged(event.object))
    except msgspec.MsgspecError:
        log.exception("an event cannot be decoded: %s…", shown(line))
        return UNREADABLE


def _flagged(pruned: msgspec.Raw) -> msgspec.Raw:
    """The object with a field that says that something is missing in it."""
    meta = decode_meta(pruned)
    log.error("%s/%s is nested too deep to be read whole", meta.namespace, meta.name)
    fields = msgspec.json.decode(pruned, type=dict[str, msgspec.Raw])
    return msgspec.Raw(msgspec.json.encode({**fields, "isPruned": True}))


def decode_meta(encoded: msgspec.Raw) -> ObjectMeta:
    """Decode no more of an object than what identifies it."""
    return msgspec.json.decode(encoded, type=_PartialObject).metadata


def decode_status(encoded: msgspec.Raw) -> Status:
    """Decode the object of an `ERROR` event."""
    return msgspec.json.decode(encoded, type=Status)
