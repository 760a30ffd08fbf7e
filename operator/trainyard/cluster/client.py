"""A thin client of the Kubernetes API on the official client's configuration and session.

Raw dictionaries in and out: the typed models cost three times the request itself. Every answer that
is not a success becomes an `ApiError` with the server's own sentence.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.request import getproxies

import aiohttp
import msgspec
from aiohttp.abc import AbstractStreamWriter
from kubernetes import aio as kube
from kubernetes.aio import client as kube_client
from kubernetes.aio import config as kube_config

from trainyard.api.names import FIELD_MANAGER
from trainyard.cluster.sockets import UNACKNOWLEDGED_SECONDS, socket_factory
from trainyard.cluster.throttle import Priority, Throttle

Object = dict[str, Any]

APPLY = "application/apply-patch+yaml"
JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
"""What an answer holds of an object whose content is none of our business."""
PAGE = 500
"""Objects per page of a LIST: as kube-controller-manager, a compromise of memory and requests."""
TIMEOUT = aiohttp.ClientTimeout(total=60, connect=10)
WATCH_SECONDS = 300
"""A watch is renewed after so long; one that nothing was heard from for longer is dead."""
WATCH_TIMEOUT = aiohttp.ClientTimeout(total=WATCH_SECONDS + 30, connect=10)
WATCH_BUFFER_BYTES = 2**21
"""As the official client: one event of a watch may be large."""
RETRIES = 8
"""Attempts at a request that the server postpones (429, 503) or that never reached it."""
PATIENCE_SECONDS = 60
"""No further attempt after so long: whoever asked has a worker waiting, and asks again later."""


class ApiError(Exception):
    """The API server's refusal."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message or f"{status} {reason}")
        self.status, self.reason, self.message = status, reason, message

    @property
    def is_conflict(self) -> bool:
        """The object exists already, or is not in the expected state."""
        return self.status == 409

    @property
    def is_passing(self) -> bool:
        """Nothing is wrong with the request: the server was not reached, or could not answer."""
        return self.status in (0, 429) or self.status >= 500

    @property
    def is_forbidden(self) -> bool:
        """Refused by RBAC, a quota or an admission plug-in."""
        return self.status == 403

    @property
    def is_missing(self) -> bool:
        """The object does not exist."""
        return self.status == 404


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
        self.requests = 0
        """Requests answered so far."""
        self.guard: Callable[[], None] | None = None
        """Called right before each request that changes anything; raises when it must not go."""
        self.unacknowledged_seconds: float = UNACKNOWLEDGED_SECONDS
        """A request that has not reached the server after so long never does."""

    @classmethod
    async def connect(cls, kubeconfig: Path | None = None, context: str | None = None) -> Self:
        """From a kubeconfig when one is given, else from the pod's service account."""
        configuration = kube_client.Configuration()
        if kubeconfig is None:
            kube_config.load_incluster_config(client_configuration=configuration)
        else:
            await kube_config.load_kube_config(
                config_file=str(kubeconfig), context=context, client_configuration=configuration
            )
        return cls(configuration)

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
        """A session with the cluster's certificates, for another client of the same cluster."""
        connector = aiohttp.TCPConnector(
            limit=0,  # the throttle is the limit
            ssl=self._api.rest_client.ssl_context,
            socket_factory=socket_factory(self.unacknowledged_seconds),
        )
        return aiohttp.ClientSession(
            connector=connector,
            # To trust the environment costs two hops to a thread for each request (netrc, proxies):
            # only where there is a proxy to find.
            trust_env=bool(getproxies()),
            read_bufsize=WATCH_BUFFER_BYTES,
            **options,
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
        """Raise what the guard raises, where there is one."""
        if self.guard is not None:
            self.guard()

    def guarded(self, body: bytes) -> aiohttp.BytesPayload:
        """A body that is not sent when the guard refuses at that very moment.

        Between the start of a request and its first byte lie a free place and a connection, and as
        much time as these take.
        """
        return _Guarded(body, self.check)

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        content_type: str = JSON,
        accept: str = JSON,
        lane: Priority = Priority.WORK,
    ) -> Object:
        """One request; postponed ones (429, 503, no connection) are tried again for a while."""
        data = None if body is None else msgspec.json.encode(body)
        kinds = {"Content-Type": content_type, "Accept": accept}
        pause = 0.1
        give_up_at = asyncio.get_running_loop().time() + PATIENCE_SECONDS
        for attempt in range(RETRIES):
            is_last = attempt == RETRIES - 1 or asyncio.get_running_loop().time() > give_up_at
            try:
                async with self.throttle.slot(lane):
                    return await self._once(method, path, query, data, kinds)
            except ApiError as error:
                if error.status not in (429, 503) or is_last:
                    raise
                self.throttle.refused()
            except (aiohttp.ClientError, TimeoutError) as error:
                # A creation that may have arrived is repeated all the same: names are
                # deterministic, so that the second one is refused as a conflict.
                if is_last:
                    raise ApiError(0, "Unreachable", f"API server: {error!r}") from error
            await asyncio.sleep(pause)
            pause = min(pause * 2, 5.0)
        raise AssertionError("unreachable")

    async def _once(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        data: bytes | None,
        kinds: Mapping[str, str],
    ) -> Object:
        headers = {**kinds, **await self.headers()}
        body: bytes | aiohttp.BytesPayload | None = data
        if method != "GET":
            self.check()
            body = self.guarded(data or b"")
        async with self.session.request(
            method, self.url(path), params=query, data=body, headers=headers, timeout=TIMEOUT
        ) as response:
            text = await response.read()
            self.requests += 1
            if response.status >= 400:
                raise _error(response, text)
            self.throttle.accepted()
            answer: Object = msgspec.json.decode(text)
            return answer

    async def get(self, path: str) -> Object:
        """One object."""
        return await self.request("GET", path)

    async def create(self, path: str, body: Object) -> Object:
        """A new object in the collection at `path`."""
        return await self.request("POST", path, query={"fieldManager": FIELD_MANAGER}, body=body)

    async def apply(self, path: str, body: Object, *, lane: Priority = Priority.WORK) -> Object:
        """Server-side apply: the object at `path` gets, and keeps only, the fields of `body`."""
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        return await self.request(
            "PATCH", path, query=query, body=body, content_type=APPLY, lane=lane
        )

    async def is_there(self, path: str) -> bool:
        """Whether the object exists, for who may change but not read it: by a patch of nothing."""
        try:
            await self.request("PATCH", path, body={}, content_type=MERGE_PATCH, accept=METADATA)
        except ApiError as error:
            if error.is_missing:
                return False
            raise
        return True

    async def delete(
        self, path: str, uid: str = "", grace_seconds: int | None = None, version: str = ""
    ) -> None:
        """Delete in the background; an object that is gone, or another by now, is a success."""
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
        """Every object of a collection, page by page."""
        query = {"limit": str(PAGE)}
        if label_selector:
            query["labelSelector"] = label_selector
        if field_selector:
            query["fieldSelector"] = field_selector
        while True:
            page = await self.request("GET", path, query=query)
            for item in page["items"]:
                yield item
            token = page["metadata"].get("continue", "")
            if not token:
                return
            query["continue"] = token

    async def latest(self, path: str) -> str:
        """The collection's present resource version, to watch it from."""
        page = await self.request("GET", path, query={"limit": "1"})
        version: str = page["metadata"]["resourceVersion"]
        return version

    @asynccontextmanager
    async def watch(self, path: str, version: str) -> AsyncIterator[aiohttp.StreamReader]:
        """What happens in a collection after `version`: one JSON document a line.

        Past the throttle, which counts requests that end. Raises `ApiError`, `aiohttp.ClientError`
        or `TimeoutError`.
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
                raise _error(response, await response.read())
            yield response.content


class _Guarded(aiohttp.BytesPayload):
    """Bytes that are checked once more as they go out; the headers leave with them."""

    def __init__(self, body: bytes, check: Callable[[], None]) -> None:
        super().__init__(body)
        self._check = check

    async def write_with_length(
        self, writer: AbstractStreamWriter, content_length: int | None
    ) -> None:
        try:
            self._check()
        except BaseException as error:
            # aiohttp writes in a task of its own, which nobody waits for: the request that fails
            # by this is tried again, and meets the guard itself.
            raise ConnectionAbortedError(f"not sent: {error}") from error
        await super().write_with_length(writer, content_length)


def _error(response: aiohttp.ClientResponse, text: bytes) -> ApiError:
    try:
        answer = msgspec.json.decode(text)
        return ApiError(response.status, answer.get("reason", ""), answer.get("message", ""))
    except (msgspec.DecodeError, AttributeError):
        return ApiError(response.status, response.reason or "", text[:500].decode(errors="replace"))
