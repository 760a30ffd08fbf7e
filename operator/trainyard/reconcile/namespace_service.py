"""The headless Service of each namespace with jobs: created once, never taken over from others."""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime, timedelta
from typing import NamedTuple

from trainyard.cluster.client import KubeClient, collection
from trainyard.cluster.errors import ApiError
from trainyard.cluster.objects import get_or_create
from trainyard.reconcile.state import Clock
from trainyard.render.network import namespace_service, unsuitable

log = logging.getLogger(__name__)

SERVICE_INTERVAL = timedelta(hours=1)
"""How often a Service is read again: no watch tells when somebody changes or deletes it."""


class _ServiceKey(NamedTuple):
    namespace: str
    name: str


class NamespaceServices:
    """The Services that this process ensured, and the requests in flight for others."""

    def __init__(self, client: KubeClient, clock: Clock) -> None:
        self._client, self._clock = client, clock
        self._valid_until: dict[_ServiceKey, datetime] = {}
        self._in_flight: dict[_ServiceKey, asyncio.Task[None]] = {}

    async def ensure(self, namespace: str, name: str) -> None:
        """Ensure the Service, unless that was done within the interval.

        All jobs of a namespace that ask at the same time share the requests and their error.
        Raises ApiError, also where a Service of that name exists that does not serve.
        """
        key = _ServiceKey(namespace, name)
        valid_until = self._valid_until.get(key)
        if valid_until is not None and self._clock() < valid_until:
            return
        if key not in self._in_flight:
            task = self._in_flight[key] = asyncio.create_task(self._ensure(key))
            task.add_done_callback(lambda done: self._finish(key, done))
        # One job's reconcile may be cancelled; the others still wait for the same request.
        await asyncio.shield(self._in_flight[key])

    def valid_until(self, namespace: str, name: str) -> datetime | None:
        """When the Service must be ensured again; None before the first time."""
        return self._valid_until.get(_ServiceKey(namespace, name))

    def forget(self, namespace: str) -> None:
        """Have the Services of a namespace read again when a job next needs them."""
        for key in [key for key in self._valid_until if key.namespace == namespace]:
            del self._valid_until[key]

    async def _ensure(self, key: _ServiceKey) -> None:
        now = self._clock()
        path, manifest = collection("v1", "services", key.namespace), namespace_service(*key)
        service, is_new = await get_or_create(self._client, path, manifest)
        if is_new:
            log.info("service created", extra={"namespace": key.namespace, "service": key.name})
        if message := unsuitable(service):
            raise ApiError(409, "AlreadyExists", message)
        self._valid_until[key] = now + SERVICE_INTERVAL

    def _finish(self, key: _ServiceKey, task: asyncio.Task[None]) -> None:
        del self._in_flight[key]
        if not task.cancelled():
            task.exception()  # retrieved, even if everybody who waited was cancelled
