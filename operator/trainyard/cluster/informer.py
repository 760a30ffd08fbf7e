"""Informers: a store kept equal to one collection of the API server by LIST and WATCH.

Kubernetes' own objects come by the thousand (a job on its way to Running is nine events of pods):
an event is decoded only as far as it is read, and let go before the next one is decoded.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Generic, NoReturn, TypedDict, TypeVar

import aiohttp
import msgspec

from trainyard.cluster.activity import Activity
from trainyard.cluster.client import KubeClient, collection
from trainyard.cluster.decoding import (
    UNREADABLE,
    ObjectMeta,
    WatchEvent,
    decode_meta,
    decode_status,
)
from trainyard.cluster.errors import THROTTLED, ApiError
from trainyard.cluster.restore import is_restored
from trainyard.cluster.store import ObjectKey, Snapshot, Store, Versioned

log = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS = 0.1
LAST_PAUSE_SECONDS = 1.0
UNREADABLE_PAUSE_SECONDS = 10.0
"""Between an event that cannot be read and the listing for it, which serves all until then."""
RESUMABLE = (0, *THROTTLED)
"""Status codes after which a watch continues from the version it has reached."""

T = TypeVar("T", bound=Versioned)


class Selectors(TypedDict, total=False):
    """Of a LIST."""

    label_selector: str
    field_selector: str


class Informer(Generic[T]):
    """Lists a collection into a store, then follows it, through any loss of the connection."""

    def __init__(
        self,
        client: KubeClient,
        plural: str,
        namespace: str = "",
        *,
        shape: Any,
        parse: Callable[[Any], T],
        store: Store[ObjectKey, T],
        on_change: Callable[[T | None, T | None], None],
        relist_interval: timedelta,
        activity: Activity,
        selectors: Sequence[Selectors] = (Selectors(),),
    ) -> None:
        """Keep `store` equal to the collection of `plural` in `namespace` (empty: in all).

        `shape` is a TypedDict of the fields that `parse` reads. `on_change` is called with the old
        and the new state whenever an event or a listing changes the store; None: there is no such
        object. `activity` records each success under the path. `selectors` are those of the LISTs,
        in their order, that together contain all that is relevant.
        """
        self._client, self._plural, self._namespace = client, plural, namespace
        self._path = collection("v1", plural, namespace)
        self._decoder = msgspec.json.Decoder(shape)
        self._parse = parse
        self._store, self._on_change = store, on_change
        self.relist_interval = relist_interval
        self._activity = activity
        self._selectors = selectors
        self._listing = asyncio.Lock()
        self._relist_requested = asyncio.Event()
        self.has_synced = asyncio.Event()
        """Set once the first listing is complete."""
        self._has_watched = False
        self._version = ""
        """The version to watch from; empty: none, or one that the server no longer has."""

    async def run(self) -> None:
        """List and watch until cancelled; raises `ApiError` if the server refuses at the start."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._list_and_watch())
            group.create_task(self._relist_periodically())

    async def relist(self) -> str:
        """List everything and remove what is missing; returns the version of the listing.

        What was found stays found if the listing
        fails half-way. Events go on meanwhile; another listing waits.
        """
        async with self._listing:
            before = self._store.snapshot()
            listed: dict[ObjectKey, str] = {}
            versions: list[str] = []
            for selectors in self._selectors:
                async for page in self._client.list_pages(self._path, **selectors):
                    versions.append(page.metadata.resource_version)
                    for item in page.items:
                        meta = self._put_listed(item, before)
                        listed[meta.key] = meta.uid
            version = int(versions[0])  # what changed between two LISTs comes as an event
            for gone in self._store.remove_unlisted(self._namespace, before, listed, version):
                self._on_change(gone, None)
            self._store.complete_listing(self._namespace, version)
            self._activity.record(self._path)
            return versions[0]

    async def _list_and_watch(self) -> NoReturn:
        pause = FIRST_PAUSE_SECONDS
        while True:
            before = self._version
            try:
                await self._follow()
            except ApiError as error:
                self._recover(error)
            except (aiohttp.ClientError, OSError) as error:  # TimeoutError is one
                log.info("the watch of %s was cut off: %r", self._path, error)
            except msgspec.MsgspecError:
                # Of a listing, or of what identifies an object: there is no such input to wait for.
                log.exception("the watch of %s begins afresh", self._path)
                self._version = ""
            has_moved = self._version not in ("", before)
            pause = FIRST_PAUSE_SECONDS if has_moved else min(2 * pause, LAST_PAUSE_SECONDS)
            await asyncio.sleep(pause)

    async def _follow(self) -> None:
        """Watch on one connection until the server ends it, after a listing where one is due."""
        if not self._version or await is_restored(self._client, self._path, self._version):
            self._version = await self.relist()
            self.has_synced.set()
        async with self._client.watch(self._path, self._version) as events:
            self._has_watched = True
            self._activity.record(self._path)
            async for event in events:
                self._apply(event)

    def _recover(self, error: ApiError) -> None:
        """Decide where to continue after an error; raises it if the server refuses at the start."""
        if not (self._has_watched or error.is_transient):
            raise error
        if error.status not in RESUMABLE:
            self._version = ""
        level = logging.DEBUG if error.is_expired else logging.WARNING
        log.log(level, "the watch of %s has ended: %s", self._path, error)

    def _apply(self, event: WatchEvent) -> None:
        self._activity.record(self._path)
        if event.type == "ERROR":
            status = decode_status(event.object)
            self._version = ""
            raise ApiError(status.code, "", status.message)
        if event is UNREADABLE:
            self._relist_requested.set()
            return
        meta = decode_meta(event.object)
        if event.type == "DELETED":
            if (gone := self._store.remove(meta.key, meta.uid)) is not None:
                self._on_change(gone, None)
        elif event.type != "BOOKMARK":
            self._put(event.object, meta)
        self._version = meta.resource_version

    def _put_listed(self, encoded: msgspec.Raw, before: Snapshot[ObjectKey, T]) -> ObjectMeta:
        meta = decode_meta(encoded)
        self._put(encoded, meta, before)
        return meta

    def _put(
        self,
        encoded: msgspec.Raw,
        meta: ObjectMeta,
        before: Snapshot[ObjectKey, T] | None = None,
    ) -> None:
        try:
            new = self._parse(self._decoder.decode(encoded))
        except Exception:
            # An object unlike all that the API describes must not hide the others.
            kind = self._plural.removesuffix("s")
            log.exception("%s %s/%s cannot be read", kind, meta.namespace, meta.name)
            return
        old = self._store.get(meta.key)
        if self._store.put(new, before=before):
            self._on_change(old, self._store.get(meta.key))

    async def _relist_periodically(self) -> NoReturn:
        await self.has_synced.wait()
        pause = self._jittered_interval()
        while True:
            await self._pause(pause)
            try:
                await self.relist()
            except (ApiError, msgspec.MsgspecError) as error:
                log.warning("%s could not be listed: %s", self._path, error)
                pause = LAST_PAUSE_SECONDS
            else:
                pause = self._jittered_interval()

    async def _pause(self, seconds: float) -> None:
        """Wait for the next listing, which an event that cannot be read makes due sooner."""
        try:
            async with asyncio.timeout(seconds):
                await self._relist_requested.wait()
            await asyncio.sleep(min(seconds, UNREADABLE_PAUSE_SECONDS))
        except TimeoutError:
            pass
        self._relist_requested.clear()

    def _jittered_interval(self) -> float:
        return self.relist_interval.total_seconds() * random.uniform(0.8, 1.2)  # noqa: S311 - not a secret
