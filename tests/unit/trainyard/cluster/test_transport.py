"""What kopf lists and watches with: bounded, reduced, and never an error on which it ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import kopf
import pytest
from aiohttp import web
from kopf._cogs.clients import auth, watching
from kopf._cogs.structs import credentials, references
from kubernetes.aio import client as kube_client

from tests.support.jobs import raw_job
from trainyard import settings
from trainyard.api.jobs import read_job
from trainyard.api.validation import MAX_SPEC_BYTES
from trainyard.cluster import paging, transport
from trainyard.cluster.activity import Activity
from trainyard.cluster.client import KubeClient
from trainyard.cluster.framing import bounded_lines
from trainyard.cluster.transport import job_session

PATH = "/apis/trainyard.dev/v1alpha1/distributedjobs"
RESOURCE = references.Resource("trainyard.dev", "v1alpha1", "distributedjobs", namespaced=True)
END = "END"


class Server:
    """Lists `objects` and answers each watch with the next script."""

    def __init__(self, *scripts: list[Any] | int) -> None:
        self.scripts = list(scripts)
        self.objects: list[Any] = []
        self.version = 100
        self.refusals: list[int] = []
        """Status codes of the next listings."""
        self.limits: list[int] = []
        self.ended = asyncio.Event()
        self.watched: list[str] = []
        """The versions that watches began from."""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if "watch" in request.query:
            return await self._watch(request)
        limit = int(request.query["limit"])
        meta = {"resourceVersion": str(self.version)}
        if (
            limit == 1
            and "continue" not in request.query
            and "Partial" in request.headers["Accept"]
        ):
            return web.json_response({"metadata": meta, "items": None})
        if self.refusals:
            return web.json_response({"kind": "Status"}, status=self.refusals.pop(0))
        self.limits.append(limit)
        start = int(request.query.get("continue", "0"))
        end = min(start + limit, len(self.objects))
        items = ", ".join(map(encoded, self.objects[start:end]))
        meta["continue"] = str(end) if end < len(self.objects) else ""
        text = '{"kind": "DistributedJobList", "metadata": %s, "items": [%s]}'
        return web.Response(text=text % (json.dumps(meta), items), content_type="application/json")

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        self.watched.append(request.query["resourceVersion"])
        script = self.scripts.pop(0) if self.scripts else [END]
        if isinstance(script, int):
            return web.json_response({"kind": "Status", "message": "no"}, status=script)
        response = web.StreamResponse()
        await response.prepare(request)
        for item in script:
            if item == END:
                await self.ended.wait()
                return response
            await response.write(item if isinstance(item, bytes) else json.dumps(item).encode())
            await response.write(b"\n")
        return response


def encoded(item: Any) -> str:
    return item if isinstance(item, str) else json.dumps(item)


def job(name: str, version: int = 100, argument: Any = None) -> dict[str, Any]:
    task = {"entrypoint": "a.b:C", "args": {"a": argument}}
    return raw_job({"task": task}, name=name, uid=f"uid-{name}", resourceVersion=str(version))


def nested(name: str, depth: int) -> str:
    """A job that no encoder of Python would write."""
    return json.dumps(job(name, argument="?")).replace('"?"', "[" * depth + "]" * depth)


def event(name: str, version: int) -> dict[str, Any]:
    return {"type": "MODIFIED", "object": job(name, version)}


class Watched:
    """What kopf would hand to its handlers."""

    def __init__(self, activity: Activity) -> None:
        self.events: list[Any] = []
        self.activity = activity

    @property
    def names(self) -> list[str]:
        return [e["object"]["metadata"]["name"] for e in self.events if e["type"] != "BOOKMARK"]

    async def until(self, *names: str) -> None:
        async with asyncio.timeout(10):
            while self.names != list(names):
                await asyncio.sleep(0.005)

    def job(self, name: str) -> Any:
        [found] = [e["object"] for e in self.events if e["object"]["metadata"]["name"] == name]
        return read_job(found["encoded"]).parse()


@contextlib.asynccontextmanager
async def watching_by_kopf(server: Server) -> AsyncIterator[Watched]:
    """kopf's own watch of the server, with our session."""
    app = web.Application()
    app.router.add_get(PATH, server.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    configured = kopf.OperatorSettings()
    settings.configure(configured)
    watched = Watched(Activity())
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        await web.SockSite(runner, listener).start()
        configuration = kube_client.Configuration()
        configuration.host = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with KubeClient(configuration) as client:
            session = await job_session(client, watched.activity)
            info = credentials.AiohttpSession(server=client.server, aiohttp_session=session)
            auth.vault_var.set(credentials.Vault({"login": info}))

            async def watch() -> None:
                stream = watching.infinite_watch(
                    settings=configured, resource=RESOURCE, namespace=None
                )
                async for item in stream:
                    if not isinstance(item, watching.Bookmark):
                        watched.events.append(item)

            task = asyncio.create_task(watch())
            yield watched
            assert not task.done(), task.exception()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await session.close()
            server.ended.set()
        await runner.cleanup()


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "PAUSE_SECONDS", 0.01)


async def test_kopf_gets_of_a_job_what_identifies_it_and_the_rest_as_a_string() -> None:
    server = Server([event("b", 101), END])
    whole = job("a", argument={"x": [1, 2.5, "é"]})
    whole["metadata"]["annotations"] = {"big": "y" * 300_000}
    server.objects = [whole]
    async with watching_by_kopf(server) as watched:
        await watched.until("a", "b")
        assert watched.activity.stalled(timedelta(hours=-1)) == [PATH], "its success is recorded"
    [listed, changed] = watched.events
    assert (listed["type"], changed["type"]) == (None, "MODIFIED")
    assert listed["object"].keys() == {"apiVersion", "kind", "metadata", "encoded"}
    assert len(listed["object"]["encoded"]) < 2_000, "annotations and managed fields are left out"
    found = watched.job("a")
    assert found.spec.task.arguments() == {"a": {"x": [1, 2.5, "é"]}}
    assert found.rejection is None


async def test_a_spec_that_is_too_large_is_left_out() -> None:
    server = Server([END])
    server.objects = [job("fat", argument=[[]] * (MAX_SPEC_BYTES // 3)), job("a")]
    async with watching_by_kopf(server) as watched:
        await watched.until("fat", "a")
    assert len(watched.events[0]["object"]["encoded"]) < 1_000
    found = watched.job("fat")
    assert found.is_unread
    assert found.rejection.reason == "TooLarge"
    assert str(MAX_SPEC_BYTES) in found.rejection.message
    assert found.generation == 3
    assert not watched.job("a").is_unread


async def test_pages_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paging, "MAX_PAGE_BYTES", 50_000)
    server = Server([END])
    server.objects = [job(f"j{n}", argument="x" * 20_000) for n in range(5)]
    async with watching_by_kopf(server) as watched:
        await watched.until(*(f"j{n}" for n in range(5)))
    assert server.limits[0] == 50
    assert max(server.limits[-2:]) <= 6


async def test_what_is_nested_too_deep_hides_no_other_job(
    caplog: pytest.LogCaptureFixture,
) -> None:
    deep = '{"type": "ADDED", "object": ' + nested("late", 9_000) + "}"
    server = Server([deep.encode(), event("b", 102), END])
    server.objects = [nested("early", 9_000), job("a")]
    async with watching_by_kopf(server) as watched:
        await watched.until("early", "a", "late", "b")
    for name in ("early", "late"):
        found = watched.job(name)
        assert (found.is_unread, found.is_ours) == (True, True)
        assert "nested more than 100 levels deep" in found.rejection.message
    assert watched.job("a").rejection is None
    assert "team/early is nested too deep to be read" in caplog.text
    assert "team/late is nested too deep to be read" in caplog.text


@pytest.mark.parametrize(
    "line",
    [
        b"?",
        b"{}",
        b'{"type": "ADDED", "object": {"metadata": {"name": 5}}}',
        b'{"type": "ERROR", "object": {"code": 500, "message": "etcd event received with nil"}}',
        b'{"type": "ERROR", "object": {"code": 410}}',
        b'{"type": "ERROR", "object": []}',
        b'{"type": "BOOKMARK", "object": 1}',
    ],
    ids=["none", "empty", "no-key", "error", "expired", "odd-error", "odd-bookmark"],
)
async def test_no_event_ends_kopf(line: bytes) -> None:
    """An event that it does not expect would end the process."""
    server = Server([line], [event("b", 102), END], [event("b", 102), END])
    server.objects = [job("a")]
    async with watching_by_kopf(server) as watched:
        async with asyncio.timeout(10):
            while "b" not in watched.names:
                await asyncio.sleep(0.005)


async def test_an_oversized_event_is_followed_by_a_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_lines, "__defaults__", (10_000,))
    big = {"type": "ADDED", "object": job("big", 101, "x" * 20_000)}
    server = Server([big, END], [END])
    async with watching_by_kopf(server) as watched:
        async with asyncio.timeout(10):
            while not server.watched:
                await asyncio.sleep(0.005)
        server.objects = [big["object"]]
        await watched.until("big")


@pytest.mark.parametrize("status", [400, 404, 410, 422])
@pytest.mark.parametrize("what", ["list", "watch"])
async def test_no_refusal_ends_kopf(status: int, what: str) -> None:
    """A continue token expires while a large collection is listed, a kind is replaced."""
    server = Server(*([status] if what == "watch" else []), [event("b", 101), END])
    server.refusals = [status] if what == "list" else []
    async with watching_by_kopf(server) as watched:
        await watched.until("b")


async def test_after_a_restore_kopf_lists_again(caplog: pytest.LogCaptureFixture) -> None:
    server = Server([event("b", 9_001)], [END], [END])
    server.version = 9_000
    async with watching_by_kopf(server) as watched:
        await watched.until("b")
        server.version, server.objects = 8_000, [job("a", 7_000)]
        await watched.until("b", "a")
        async with asyncio.timeout(10):
            while server.watched[-1] != "8000":
                await asyncio.sleep(0.005)
    assert "restored to an older state" in caplog.text
