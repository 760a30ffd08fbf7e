"""A watch loses nothing, however often it is cut off, and says when something may be lost."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from kubernetes.aio import client as kube_client

from trainyard.api.pods import PodObject, parse_pod
from trainyard.cluster.client import KubeClient
from trainyard.cluster.watch import Take, Watch

PODS = "/api/v1/pods"
LINGER = object()
"""In a script: keep the connection open."""
CUT = 0
"""Instead of a script: cut the connection off before an answer."""
CLOSE = object()
"""In a script: end the answer as if all was said; without it half an event breaks off."""

Script = list[Any]


class Server:
    """Answers each watch with the next script: events, a status code, or a cut connection."""

    def __init__(self, *scripts: Script | int) -> None:
        self.scripts = list(scripts)
        self.versions: list[str] = []
        """The resource version that each watch began from."""
        self.version = 100
        self.lists = 0
        self.over = asyncio.Event()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if "watch" not in request.query:
            self.lists += 1
            assert request.query["limit"] == "1"
            return web.json_response({"metadata": {"resourceVersion": str(self.version)}})
        self.versions.append(request.query["resourceVersion"])
        assert request.query["allowWatchBookmarks"] == "true"
        script: Script | int = self.scripts.pop(0) if self.scripts else [LINGER]
        if script == CUT:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if isinstance(script, int):
            return web.json_response({"message": "not now", "reason": "Test"}, status=script)
        return await self._play(request, script)

    async def _play(self, request: web.Request, script: Script) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for item in script:
            if item is LINGER:
                await self.over.wait()
                return response
            if item is CLOSE:
                return response
            await response.write(item if isinstance(item, bytes) else _line(item))
        if script and isinstance(script[-1], bytes):
            assert request.transport is not None
            request.transport.abort()
        return response


def _line(event: Any) -> bytes:
    return json.dumps(event).encode() + b"\n"


def pod(name: str, version: int, **more: Any) -> dict[str, Any]:
    meta = {
        "namespace": "default",
        "name": name,
        "uid": f"uid-{name}",
        "resourceVersion": str(version),
        "creationTimestamp": "2026-11-22T10:00:00Z",
        "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": {}}}],
    }
    return {"kind": "Pod", "metadata": meta, "spec": {"containers": []}, **more}


def event(kind: str, name: str, version: int) -> dict[str, Any]:
    return {"type": kind, "object": pod(name, version)}


def bookmark(version: int) -> dict[str, Any]:
    return {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(version)}}}


EXPIRED = {
    "type": "ERROR",
    "object": {"kind": "Status", "metadata": {}, "code": 410, "message": "too old"},
}


class Seen:
    """What a watch handed over, and how often it began afresh."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, int]] = []
        self.objects: list[Any] = []
        self.fresh = 0
        self.has_ended = False

    def take(self, kind: str, raw: Any) -> None:
        parsed = parse_pod(raw)
        self.objects.append(raw)
        self.events.append((kind, parsed.name, parsed.resource_version))

    def begun(self) -> None:
        self.fresh += 1


@asynccontextmanager
async def watching(server: Server, take: Take | None = None) -> AsyncIterator[Seen]:
    app = web.Application()
    app.router.add_get(PODS, server.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    seen = Seen()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        await web.SockSite(runner, listener).start()
        configuration = kube_client.Configuration()
        configuration.host = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with KubeClient(configuration) as client:
            watch = Watch(client, PODS, PodObject, take or seen.take, seen.begun)
            task = asyncio.create_task(watch.run())
            task.add_done_callback(lambda _: setattr(seen, "has_ended", True))
            yield seen
            assert not task.done(), task.exception()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            server.over.set()
        await runner.cleanup()


async def until(what: Any) -> None:
    async with asyncio.timeout(10):
        while not what():
            await asyncio.sleep(0.005)


async def test_events_arrive_in_order_and_without_what_nobody_reads() -> None:
    server = Server([event("ADDED", "a", 101), event("MODIFIED", "a", 102), LINGER])
    async with watching(server) as seen:
        await until(lambda: len(seen.events) == 2)
    assert seen.events == [("ADDED", "a", 101), ("MODIFIED", "a", 102)]
    assert "managedFields" not in seen.objects[0]["metadata"]
    assert (server.versions, server.lists, seen.fresh) == (["100"], 1, 1)


async def test_a_watch_that_ends_goes_on_after_the_last_event_and_lists_nothing() -> None:
    server = Server(
        [event("ADDED", "a", 101), bookmark(140)],
        [event("DELETED", "a", 150)],
        [LINGER],
    )
    async with watching(server) as seen:
        await until(lambda: len(server.versions) == 3)
    assert server.versions == ["100", "140", "150"]
    assert seen.events == [("ADDED", "a", 101), ("DELETED", "a", 150)]
    assert (server.lists, seen.fresh) == (1, 1)


async def test_an_event_that_was_cut_in_the_middle_is_asked_for_again() -> None:
    half = _line(event("MODIFIED", "a", 102))[:90]
    server = Server(
        [event("ADDED", "a", 101), half],
        [half, CLOSE],
        [event("MODIFIED", "a", 102), LINGER],
    )
    async with watching(server) as seen:
        await until(lambda: len(seen.events) == 2)
    assert seen.events == [("ADDED", "a", 101), ("MODIFIED", "a", 102)]
    assert server.versions == ["100", "101", "101"]
    assert seen.fresh == 1


@pytest.mark.parametrize("refusal", [[EXPIRED], 410, 403, 500], ids=["event", "410", "403", "500"])
async def test_a_version_that_the_server_refuses_starts_the_watch_afresh(
    refusal: Script | int, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server([event("ADDED", "a", 101)], refusal, [event("ADDED", "b", 301), LINGER])
    with caplog.at_level(logging.WARNING):
        async with watching(server) as seen:
            await until(lambda: server.versions)
            server.version = 300
            await until(lambda: len(seen.events) == 2)
    assert server.versions == ["100", "101", "300"]
    assert (server.lists, seen.fresh) == (2, 2)
    assert bool(caplog.records) is (refusal in (403, 500)), "an expired version is nothing unusual"


@pytest.mark.parametrize("before", [[], [[event("ADDED", "a", 101)], 410]], ids=["first", "later"])
async def test_a_fresh_start_that_is_cut_off_is_still_a_fresh_start(before: list[Any]) -> None:
    server = Server(*before, CUT, CUT, [event("ADDED", "b", 102), LINGER])
    async with watching(server) as seen:
        await until(lambda: seen.events and seen.events[-1][1] == "b")
    assert server.versions[-3:] == ["100", "100", "100"], "nothing since is missed"
    assert seen.fresh == (2 if before else 1)


async def test_a_watch_that_is_refused_from_the_start_says_so() -> None:
    with pytest.raises(AssertionError, match="not now"):
        async with watching(Server(403)) as seen:
            await until(lambda: seen.has_ended)
    assert seen.fresh == 0


async def test_a_watch_that_never_began_has_nothing_to_say() -> None:
    server = Server(500, [LINGER])
    async with watching(server) as seen:
        await until(lambda: len(server.versions) == 2)
        await until(lambda: seen.fresh)
    assert seen.fresh == 1


async def test_an_object_that_cannot_be_read_hides_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    odd = event("ADDED", "odd", 101)
    odd["object"]["spec"] = "?"
    async with watching(Server([odd, event("ADDED", "a", 102), LINGER])) as seen:
        await until(lambda: seen.events)
    assert seen.events == [("ADDED", "a", 102)]
    assert "Expected `object`, got `str` - at `$.spec`" in caplog.text


async def test_a_mistake_of_ours_ends_the_watch_and_with_it_the_process() -> None:
    """A watch that is silent for ever would be worse."""

    def fail(kind: str, raw: Any) -> None:
        raise RuntimeError(f"{kind} {raw['metadata']['name']}")

    server = Server([event("ADDED", "a", 101), LINGER])
    with pytest.raises(AssertionError, match="ADDED a"):
        async with watching(server, fail) as seen:
            await until(lambda: seen.has_ended)


async def test_objects_larger_than_the_buffer_are_taken_whole() -> None:
    big = event("ADDED", "a", 101)
    big["object"]["metadata"]["annotations"] = {"x": "y" * 3_000_000}
    async with watching(Server([big, LINGER])) as seen:
        await until(lambda: seen.events)
    assert seen.events == [("ADDED", "a", 101)]
