"""A watch of a yard's pods, beside the operator's own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import msgspec

from tests.support.manifests import Object
from tests.support.yard import Yard


async def watch_pods(yard: Yard, version: str) -> AsyncIterator[tuple[str, Object]]:
    """Every event after that resource version: its type and the pod."""
    kube = yard.kube
    url = kube.url(f"{yard.path('pods')}?watch=1&resourceVersion={version}")
    timeout = aiohttp.ClientTimeout(total=None)
    async with kube.session.get(url, headers=await kube.headers(), timeout=timeout) as answer:
        async for line in answer.content:
            event = msgspec.json.decode(line)
            assert event["type"] in ("ADDED", "MODIFIED", "DELETED"), f"the watch ended: {event}"
            yield event["type"], event["object"]
