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
    timeout = aiohttp.ClientTimeout(total=None)
    while True:  # the server ends a watch now and then
        url = kube.url(f"{yard.path('pods')}?watch=1&resourceVersion={version}")
        async with kube.session.get(url, headers=await kube.headers(), timeout=timeout) as answer:
            async for line in answer.content:
                event = msgspec.json.decode(line)
                known = event["type"] in ("ADDED", "MODIFIED", "DELETED")
                assert known, f"the watch ended: {event}"
                version = event["object"]["metadata"]["resourceVersion"]
                yield event["type"], event["object"]
