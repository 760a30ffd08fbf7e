"""Jobs that no encoder of Python would write, and whose responses no decoder might follow."""

from __future__ import annotations

import io

import msgspec

from tests.support.manifests import Object
from tests.support.testbed import Testbed


def nested(depth: int) -> msgspec.Raw:
    """A list in lists, which no encoder of Python would write."""
    return msgspec.Raw(b"[" * depth + b"]" * depth)


async def create_raw(testbed: Testbed, job: Object) -> None:
    """Create a job without decoding the response, which a decoder might not follow."""
    client = testbed.client
    url = client.url(testbed.jobs_path(job["kind"]))
    headers = {**await client.headers(), "Content-Type": "application/json"}
    body = io.BytesIO(msgspec.json.encode(job))
    async with client.session.post(url, data=body, headers=headers) as response:
        assert response.status == 201, await response.text()
