"""A watch of a testbed's pods, independent of the operator's informers."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

import aiohttp
import msgspec

from tests.support.manifests import Object
from tests.support.testbed import Testbed
from trainyard.cluster.client import KubeClient


async def watch(client: KubeClient, path: str, version: str) -> AsyncIterator[tuple[str, Object]]:
    """The type and object of every event of a collection after that resource version."""
    timeout = aiohttp.ClientTimeout(total=None)
    while True:  # the server ends every watch after a while
        url = client.url(f"{path}?watch=1&resourceVersion={version}")
        async with client.session.get(
            url, headers=await client.headers(), timeout=timeout
        ) as response:
            async for line in response.content:
                event = msgspec.json.decode(line)
                is_change = event["type"] in ("ADDED", "MODIFIED", "DELETED")
                assert is_change, f"the watch ended: {event}"
                version = event["object"]["metadata"]["resourceVersion"]
                yield event["type"], event["object"]


class PodWatcher(ABC):
    """Handles every event of a testbed's pods while the context lasts."""

    def __init__(self, testbed: Testbed) -> None:
        self.testbed = testbed
        self._task: asyncio.Task[None] | None = None

    @abstractmethod
    async def handle(self, kind: str, pod: Object) -> None:
        """Handle an event: `ADDED`, `MODIFIED` or `DELETED`, and the pod."""

    async def begin(self, pods: list[Object]) -> None:
        """Handle the pods that exist when the watch starts; ignores them by default."""
        del pods

    async def __aenter__(self) -> Self:
        listed = await self.testbed.client.get(self.testbed.path("pods"))
        await self.begin(listed["items"])
        watch = self._watch(listed["metadata"]["resourceVersion"])
        self._task = asyncio.create_task(watch, name=type(self).__name__)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _watch(self, version: str) -> None:
        async for kind, pod in watch(self.testbed.client, self.testbed.path("pods"), version):
            await self.handle(kind, pod)
