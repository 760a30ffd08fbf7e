"""A thin Kubernetes API client on the official client's configuration and session.

Plain dictionaries in and out: typed models cost three times as much as the request. Every response
that is not a success becomes an `ApiError` with the server's message.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.request import getproxies

import aiohttp
import msgspec
from kubernetes import aio as kube

from trainyard.api.names import FIELD_MANAGER
from trainyard.cluster import decoding
from trainyard.cluster.decoding import Page, WatchEvent
from trainyard.cluster.errors import ApiError, error_of, may_retry
from trainyard.cluster.guarded import GuardedPayload
from trainyard.cluster.login import kubeconfig_login, pod_login
from trainyard.cluster.paging import PAGE_SIZE, BoundedResponse, OversizedPageError, PageLimit
from trainyard.cluster.sockets import BUFFER_BYTES, UNACKNOWLEDGED_SECONDS, socket_factory
from trainyard.cluster.throttle import Priority, Throttle, namespace_of

Object = dict[str, Any]

JSON = "application/json"
JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
"""Requests only the metadata of an object whose content the operator must not read."""
METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
"""The same of the objects of a listing."""
TIMEOUT = aiohttp.ClientTimeout(total=60, connect=10)
WATCH_SECONDS = 300
"""Lifetime of a watch connection, after which the client opens the next one."""
WATCH_TIMEOUT = aiohttp.ClientTimeout(total=WATCH_SECONDS + 30, connect=10)
RETRIES = 8
"""Attempts at a request that is throttled (`THROTTLED`) or does not reach the server."""
RETRY_DEADLINE_SECONDS = 60
"""No attempt starts after this: the caller occupies a worker and will be requeued."""
FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS, PAUSE_JITTER = 0.1, 5.0, 1.5
"""Pauses between two attempts, unless the server asks for longer ones (`Retry-After`); multiplied
by up to `PAUSE_JITTER`, so that requests that were throttled together come apart."""


def collection(api_version: str, plural: str, namespace: str = "") -> str:
    """The path of a collection, for example `/api/v1/namespaces/default/pods`."""
    root = "/api/v1" if api_version == "v1" else f"/apis/{api_version}"
    return f"{root}/namespaces/{namespace}/{plural}" if namespace else f"{root}/{plural}"


class KubeClient:
    """Requests to one cluster; use as an asynchronous context manager."""

    def __init__(self, configuration: Any, throttle: Throttle | None = None) -> None:
        self._configuration = configuration
        self._api = kube.client.ApiClient(configuration)
        self.throttle = throttle or Throttle()
        self.on_date: Callable[[str], None] = lambda _: None
        """Called with the `Date` of each response; empty if it has none."""
        self.requests = 0
        """Number of responses received."""
        self.guard: Callable[[], None] | None = None
        """Called right before each mutating request; raises when it must not be sent."""
        self.unacknowledged_seconds: float = UNACKNOWLEDGED_SECONDS
        """How long sent bytes may stay unacknowledged before the connection is closed."""

    @classmethod
    async def connect(cls, kubeconfig: Path | None = None, context: str | None = None) -> Self:
        """Configure from a kubeconfig if given, otherwise from the pod's service account.

        Raises LoginError.
        """
        if kubeconfig is None:
            return cls(pod_login(os.environ).configuration)
        return cls((await kubeconfig_login(str(kubeconfig), context)).configuration)

    async def __aenter__(self) -> Self:
        self._api.rest_client.pool_manager = self.new_session()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        await self._api.close()

    @property
    def session(self) -> aiohttp.ClientSession:
        """The session with the cluster's certificates."""
        session: aiohttp.ClientSession | None = self._api.rest_client.pool_manager
        assert session is not None, "use the client as a context manager"  # noqa: S101
        return session

    def new_session(self, **options: Any) -> aiohttp.ClientSession:
        """A new session with the cluster's certificates."""
        connector = aiohttp.TCPConnector(
            limit=0,  # the throttle is the limit
            ssl=self._api.rest_client.ssl_context,
            socket_factory=socket_factory(self.unacknowledged_seconds),
        )
        return aiohttp.ClientSession(
            connector=connector,
            # Reading proxies and netrc from the environment costs two thread switches per request:
            # done only where a proxy is configured.
            trust_env=bool(getproxies()),
            read_bufsize=BUFFER_BYTES,
            **{"response_class": BoundedResponse, **options},
        )

    async def headers(self) -> dict[str, str]:
        """Authentication, refreshed by the official client where it expires."""
        settings = await self._configuration.auth_settings()
        return {s["key"]: s["value"] for s in settings.values() if s["in"] == "header"}

    @property
    def server(self) -> str:
        """The address of the API server."""
        host: str = self._configuration.host
        return host

    def url(self, path: str) -> str:
        """The absolute address of an API path."""
        return f"{self.server}{path}"

    def check(self) -> None:
        """Call the guard, if there is one."""
        if self.guard is not None:
            self.guard()

    def guarded(self, body: bytes) -> aiohttp.BytesPayload:
        """A request body that calls the guard again right before its first byte is sent.

        Waiting for the throttle and for a connection may take any time after the request starts.
        """
        return GuardedPayload(body, self.check)

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Object | list[Object] | None = None,
        content_type: str = JSON,
        accept: str = JSON,
        priority: Priority = Priority.WORK,
    ) -> Object:
        """Send one request and decode the object in the response; raises `ApiError`."""
        data = None if body is None else msgspec.json.encode(body)
        headers = {"Content-Type": content_type, "Accept": accept}
        answer: Object = msgspec.json.decode(
            await self._send(method, path, query, data, headers, priority)
        )
        return answer

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        data: bytes | None,
        headers: Mapping[str, str],
        priority: Priority,
    ) -> bytes:
        """The body of the response; retries while the server throttles or is unreachable."""
        loop, pause = asyncio.get_running_loop(), FIRST_PAUSE_SECONDS
        give_up_at = loop.time() + RETRY_DEADLINE_SECONDS
        for attempt in range(RETRIES):
            try:
                async with self.throttle.slot(priority, namespace_of(path)):
                    return await self._send_once(method, path, query, data, headers)
            except ApiError as error:
                if not may_retry(method, error):
                    raise
                failure = error
            except (aiohttp.ClientError, TimeoutError) as error:
                # Repeating a creation is safe: names are deterministic, so the object exists then.
                failure = ApiError(0, "Unreachable", f"API server: {error!r}")
                failure.__cause__ = error
            wait = max(pause, failure.retry_after_seconds)
            if attempt == RETRIES - 1 or loop.time() + wait > give_up_at:
                raise failure
            await asyncio.sleep(wait * random.uniform(1.0, PAUSE_JITTER))  # noqa: S311 - jitter
            pause = min(pause * 2, MAX_PAUSE_SECONDS)
        raise AssertionError("unreachable")

    async def _send_once(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        data: bytes | None,
        headers: Mapping[str, str],
    ) -> bytes:
        headers = {**headers, **await self.headers()}
        body: bytes | aiohttp.BytesPayload | None = data
        if method != "GET":
            self.check()
            body = self.guarded(data or b"")
        async with self.session.request(
            method, self.url(path), params=query, data=body, headers=headers, timeout=TIMEOUT
        ) as response:
            self.on_date(response.headers.get("Date", ""))
            content = await response.read()
            self.requests += 1
            if response.status >= 400:
                raise error_of(response, content)
            return content

    async def get(self, path: str, *, accept: str = JSON) -> Object:
        """Read one object."""
        return await self.request("GET", path, accept=accept)

    async def create(self, path: str, body: Object) -> Object:
        """Create an object in the collection at `path`."""
        return await self.request("POST", path, query={"fieldManager": FIELD_MANAGER}, body=body)

    async def update(self, path: str, body: Object, *, priority: Priority) -> Object:
        """Replace the object at `path`, or its status where the path is that; returns its metadata.

        A conflict if the object is not the one, or not in the version, that `body` names.
        """
        query = {"fieldManager": FIELD_MANAGER}
        updated = await self.request(
            "PUT", path, query=query, body=body, accept=METADATA, priority=priority
        )
        meta: Object = updated["metadata"]
        return meta

    async def metadata(self, path: str) -> Object | None:
        """The object's metadata, or None if it does not exist.

        Read by an empty patch, which needs no right to read the object.
        """
        try:
            found = await self.request(
                "PATCH", path, body={}, content_type=MERGE_PATCH, accept=METADATA
            )
        except ApiError as error:
            if error.is_missing:
                return None
            raise
        meta: Object = found["metadata"]
        return meta

    async def replace_fields(self, path: str, version: str, fields: Mapping[str, Any]) -> Object:
        """Replace whole fields, by JSON pointer, of the object in that version.

        Returns its metadata; a conflict if the object has another resource version by now.
        """
        values = {"/metadata/resourceVersion": version, **fields}
        operations: list[Object] = [
            {"op": "add", "path": pointer, "value": value} for pointer, value in values.items()
        ]
        replaced = await self.request(
            "PATCH",
            path,
            query={"fieldManager": FIELD_MANAGER},
            body=operations,
            content_type=JSON_PATCH,
            accept=METADATA,
        )
        meta: Object = replaced["metadata"]
        return meta

    async def delete(
        self, path: str, uid: str = "", grace_seconds: int | None = None, version: str = ""
    ) -> None:
        """Delete in the background; succeeds if the object is already gone or was replaced."""
        body: Object = {"propagationPolicy": "Background"}
        conditions = {"uid": uid, "resourceVersion": version}
        if uid or version:
            body["preconditions"] = {name: value for name, value in conditions.items() if value}
        if grace_seconds is not None:
            body["gracePeriodSeconds"] = grace_seconds
        try:
            await self.request("DELETE", path, body=body)
        except ApiError as error:
            if not (error.is_missing or error.is_conflict):
                raise

    async def list_all(
        self, path: str, label_selector: str = "", field_selector: str = ""
    ) -> AsyncIterator[Object]:
        """Every object of a collection."""
        async for page in self.list_pages(path, label_selector, field_selector):
            for item in page.items:
                yield msgspec.json.decode(item)

    async def list_pages(
        self,
        path: str,
        label_selector: str = "",
        field_selector: str = "",
        page_size: int = PAGE_SIZE,
    ) -> AsyncIterator[Page]:
        """A collection page by page, all pages of the same resource version.

        A page has at most `page_size` objects, and fewer where these are large.
        """
        limit, query, accept = PageLimit(page_size), {}, {"Accept": JSON}
        if label_selector:
            query["labelSelector"] = label_selector
        if field_selector:
            query["fieldSelector"] = field_selector
        while True:
            query["limit"] = str(limit.objects)
            try:
                content = await self._send("GET", path, query, None, accept, Priority.WORK)
            except OversizedPageError:
                limit.shrink()
                continue
            page = await decoding.decode_page(content)
            del content  # megabytes, perhaps
            yield page
            limit.grow()
            if not page.metadata.continue_:
                return
            query["continue"] = page.metadata.continue_

    async def latest_version(self, path: str) -> str:
        """The resource version that a listing of a collection would have now."""
        content = await self._send(
            "GET", path, {"limit": "1"}, None, {"Accept": METADATA_LIST}, Priority.WORK
        )
        return await decoding.decode_version(content)

    @asynccontextmanager
    async def watch(self, path: str, version: str) -> AsyncIterator[AsyncIterator[WatchEvent]]:
        """The events of a collection after `version`, on one connection, until the server ends it.

        Bypasses the throttle, which counts requests that complete. Raises `ApiError`,
        `aiohttp.ClientError` or `TimeoutError`.
        """
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        async with self.session.get(
            self.url(path), params=query, headers=await self.headers(), timeout=WATCH_TIMEOUT
        ) as response:
            if response.status >= 400:
                raise error_of(response, await response.read())
            yield decoding.decode_events(response.content)
