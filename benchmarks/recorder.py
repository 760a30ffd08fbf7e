"""The operator, with every change that it makes written down: `python -m benchmarks.recorder`.

A process of its own in place of `python -m trainyard`, with the same options. What it records is
what goes over the wire, whichever module of the operator sent it and by whichever method.
"""

from __future__ import annotations

import functools
import os
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import msgspec

ENV_FILE = "TRAINYARD_BENCH_RECORD"
"""The file that gets one line a request."""
_CHANGES = ("POST", "PUT", "PATCH")


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One request that changes an object."""

    method: str
    path: str
    query: dict[str, str]
    content_type: str
    body: str


def trace(path: Path) -> aiohttp.TraceConfig:
    """Append each request that changes an object to the file once it has succeeded."""
    config = aiohttp.TraceConfig()

    async def on_chunk_sent(
        _: aiohttp.ClientSession, context: SimpleNamespace, params: Any
    ) -> None:
        context.body = getattr(context, "body", b"") + params.chunk

    async def on_end(_: aiohttp.ClientSession, context: SimpleNamespace, params: Any) -> None:
        if params.method in _CHANGES and params.response.status < 400:
            request = Request(
                method=params.method,
                path=params.url.path,
                query=dict(params.url.query),
                content_type=params.response.request_info.headers.get("Content-Type", ""),
                body=getattr(context, "body", b"").decode(),
            )
            with path.open("ab") as file:  # One write: whoever reads sees whole lines.
                file.write(msgspec.json.encode(request) + b"\n")

    config.on_request_chunk_sent.append(on_chunk_sent)
    config.on_request_end.append(on_end)
    return config


def read_requests(path: Path) -> list[Request]:
    """The requests that were recorded so far."""
    lines = path.read_bytes().splitlines() if path.exists() else []
    return [msgspec.json.decode(line, type=Request) for line in lines]


def main() -> None:
    """Run the operator with the trace in each of its sessions."""
    traces = [trace(Path(os.environ[ENV_FILE]))]
    session: Any = aiohttp.ClientSession
    session.__init__ = functools.partialmethod(session.__init__, trace_configs=traces)
    runpy.run_module("trainyard", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
