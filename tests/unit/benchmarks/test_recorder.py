"""Requests of a session as the recorder sees them."""

from __future__ import annotations

from pathlib import Path

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

from benchmarks.recorder import Request, read_requests, trace


async def answer(request: web.Request) -> web.Response:
    await request.read()
    return web.Response(status=409 if request.path == "/taken" else 201)


async def test_changes_that_succeed_are_recorded_as_they_were_sent(tmp_path: Path) -> None:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    file = tmp_path / "requests"
    assert read_requests(file) == []
    async with TestServer(app) as server, aiohttp.ClientSession(trace_configs=[trace(file)]) as s:
        headers = {"Content-Type": "application/merge-patch+json"}
        query = {"fieldManager": "trainyard"}
        for method, path in (("GET", "/pods"), ("POST", "/taken"), ("PATCH", "/pods/a")):
            url = server.make_url(path)
            async with s.request(method, url, params=query, data=b"{}", headers=headers):
                pass
    assert read_requests(file) == [
        Request(
            method="PATCH",
            path="/pods/a",
            query=query,
            content_type="application/merge-patch+json",
            body="{}",
        )
    ]
