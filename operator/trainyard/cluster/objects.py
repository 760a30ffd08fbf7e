"""Objects that may not exist: reading them, and creating those that have to."""

from __future__ import annotations

from trainyard.cluster.client import KubeClient, Object
from trainyard.cluster.errors import ApiError


async def find(client: KubeClient, path: str) -> Object | None:
    """The object at the path, or None if it does not exist."""
    try:
        return await client.get(path)
    except ApiError as error:
        if error.is_missing:
            return None
        raise


async def get_or_create(client: KubeClient, collection: str, body: Object) -> tuple[Object, bool]:
    """The object of that name in a collection, and whether it was created.

    Read first: a full quota refuses to create even what exists already.
    """
    path = f"{collection}/{body['metadata']['name']}"
    found = await find(client, path)
    if found is not None:
        return found, False
    try:
        return await client.create(collection, body), True
    except ApiError as error:
        if not error.already_exists:
            raise
    return await client.get(path), False  # another process was faster
