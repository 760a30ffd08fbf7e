"""A fake API server in memory for `KubeClient`'s methods; records every request."""

from __future__ import annotations

import copy
import functools
from collections.abc import AsyncIterator, Mapping
from typing import Any, cast

import msgspec

from trainyard.cluster.client import KubeClient
from trainyard.cluster.decoding import ListMeta, Page
from trainyard.cluster.errors import ApiError

Object = dict[str, Any]

LISTED_VERSION = "1000"
"""Of every listing: newer than all that tests create."""


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

    async def get(self, path: str, **_: Any) -> Object:
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

    async def update(self, path: str, body: Object, **_: Any) -> Object:
        self.requests.append(("PUT", path))
        version = int(body["metadata"].get("resourceVersion", 0)) + 1
        self.objects[path] = body
        return {"resourceVersion": str(version)}

    async def metadata(self, path: str) -> Object | None:
        self.requests.append(("PATCH", path))
        found: Object | None = self.objects[path]["metadata"] if path in self.objects else None
        return found

    async def replace_fields(self, path: str, version: str, fields: Mapping[str, Any]) -> Object:
        self.requests.append(("PATCH", path))
        if path not in self.objects:
            raise ApiError(404, "NotFound", f"{path} not found")
        made = copy.deepcopy(self.objects[path])
        stored = str(made["metadata"].get("resourceVersion", ""))
        if stored != version:
            raise ApiError(409, "Conflict", f"{path} has been modified")
        for pointer, value in fields.items():
            *parents, name = pointer[1:].split("/")
            functools.reduce(lambda found, part: found[part], parents, made)[name] = value
        made["metadata"]["resourceVersion"] = str(int(stored or 0) + 1)
        self.objects[path] = made
        meta: Object = made["metadata"]
        return meta

    async def delete(self, path: str, **_: Any) -> None:
        self.requests.append(("DELETE", path))
        self.objects.pop(path, None)

    async def list_all(self, path: str, **selectors: Any) -> AsyncIterator[Object]:
        async for page in self.list_pages(path, **selectors):
            for item in page.items:
                yield msgspec.json.decode(item)

    async def list_pages(self, path: str, **selectors: Any) -> AsyncIterator[Page]:
        self.requests.append(("LIST", path))
        _, _, uid = selectors.get("field_selector", "").partition(
            "involvedObject.uid="
        )  # of Events
        listed = [
            item
            for name, item in self.objects.items()
            if name.startswith(f"{path}/") and (not uid or item["involvedObject"]["uid"] == uid)
        ]
        items = [msgspec.Raw(msgspec.json.encode(item)) for item in listed]
        yield Page(metadata=ListMeta(resource_version=LISTED_VERSION), items=items)

    async def latest_version(self, _: str) -> str:
        return LISTED_VERSION
