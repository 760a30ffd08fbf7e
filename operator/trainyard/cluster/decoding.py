"""Decoding of LIST pages and WATCH events: from bytes to objects that are themselves still encoded.

Every object of a collection passes through here before anything of it is decoded.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import msgspec

from trainyard.cluster.store import ObjectKey


class ListMeta(msgspec.Struct, rename="camel"):
    """The metadata of a page."""

    resource_version: str
    continue_: str = msgspec.field(name="continue", default="")
    """The token of the next page; empty on the last one."""


class Page(msgspec.Struct):
    """A page of a LIST."""

    metadata: ListMeta
    items: list[msgspec.Raw]


class WatchEvent(msgspec.Struct):
    """An event of a WATCH."""

    type: str
    """`ADDED`, `MODIFIED`, `DELETED`, `BOOKMARK` or `ERROR`."""
    object: msgspec.Raw


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


def decode_page(content: bytes) -> Page:
    """Decode the response to a LIST."""
    return msgspec.json.decode(content, type=Page)


async def decode_events(content: aiohttp.StreamReader) -> AsyncIterator[WatchEvent]:
    """Decode the response to a WATCH, one event when it is asked for: the rest stays in the socket.

    However far behind the operator falls, the backlog is bytes on the API server's side.
    """
    async for line in content:
        if not line.endswith(b"\n"):
            return  # a proxy closed the connection in the middle of an event
        yield msgspec.json.decode(line, type=WatchEvent)


def decode_meta(encoded: msgspec.Raw) -> ObjectMeta:
    """Decode no more of an object than what identifies it."""
    return msgspec.json.decode(encoded, type=_PartialObject).metadata


def decode_status(encoded: msgspec.Raw) -> Status:
    """Decode the object of an `ERROR` event."""
    return msgspec.json.decode(encoded, type=Status)
