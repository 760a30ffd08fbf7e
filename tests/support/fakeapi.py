"""A fake API server in memory for `KubeClient`'s methods; records every request."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, cast

import msgspec

from trainyard.cluster.client import ApiError, KubeClient
from trainyard.cluster.decoding import ListMeta, Page

Object = dict[str, Any]


class FakeApi:
    """Objects by path; `client` stands in for a KubeClient."""

    def __init__(self) -> None:
        self.objects: dict[str, Object] = {}
        self.requests: list[tuple[str, str]] = []
        self.is_full = False
        """Whether a quota is used up: creations are rejected, even of existing objects."""

    @property
    def client(self) -> KubeClient:
        return cast(KubeClient, self)

    async def get(self, path: str) -> Object:
        self.requests.append(("GET", path))
        if path not in self.objects:
            raise ApiError(404, "NotFound", f"{path} not found")
        return self.objects[path]

    async def create(self, path: str, body: Object) -> Object:
        name = f"{path}/{body['metadata']['name']}"
        self.requests.append(("POST", name))
        if self.is_full:
            raise ApiError(403, "Forbidden", f"{name} is forbidden: exceeded quota")
        if name in self.objects:
            raise ApiError(409, "AlreadyExists", f"{name} already exists")
        self.objects[name] = body
        return body

    async def apply(self, path: str, body: Object, **_: Any) -> Object:
        self.requests.append(("PATCH", path))
        self.objects[path] = body
        return body

    async def exists(self, path: str) -> bool:
        self.requests.append(("PATCH", path))
        return path in self.objects

    async def delete(self, path: str, **_: Any) -> None:
        self.requests.append(("DELETE", path))
        self.objects.pop(path, None)

    async def list_all(self, path: str, **selectors: Any) -> AsyncIterator[Object]:
        async for page in self.list_pages(path, **selectors):
            for item in page.items:
                yield msgspec.json.decode(item)

    async def list_pages(self, path: str, **_: Any) -> AsyncIterator[Page]:
        self.requests.append(("LIST", path))
        listed = [item for name, item in self.objects.items() if name.startswith(f"{path}/")]
        items = [msgspec.Raw(msgspec.json.encode(item)) for item in listed]
        yield Page(metadata=ListMeta(resource_version="1"), items=items)
