"""Server-side apply, as `kubectl apply --server-side` does."""

from __future__ import annotations

from trainyard.cluster.client import KubeClient, Object

APPLY = "application/apply-patch+yaml"


async def apply(client: KubeClient, path: str, manifest: Object) -> Object:
    """Create the object at the path, or make its fields those of the manifest."""
    query = {"fieldManager": "tests", "force": "true"}
    return await client.request("PATCH", path, query=query, body=manifest, content_type=APPLY)
