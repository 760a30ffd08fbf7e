"""An API server that was restored to an older state."""

from __future__ import annotations

import logging

from trainyard.cluster.client import KubeClient

log = logging.getLogger(__name__)


async def is_restored(client: KubeClient, path: str, reached: str) -> bool:
    """Whether a collection is in an older state than the version that a watch of it has reached.

    A watch from a version that the server has yet to reach is silent until then.
    """
    version = await client.latest_version(path)
    if is_older := int(version) < int(reached):
        log.warning(
            "the API server was restored to an older state: %s is at version %s, after %s",
            *(path, version, reached),
        )
    return is_older
