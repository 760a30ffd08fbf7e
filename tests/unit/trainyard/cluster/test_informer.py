"""An informer misses nothing, however often its connection breaks, for pods and nodes alike."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from aiohttp import web
from kubernetes.aio import client as kube_client

from tests.support.fakeapi import Object
from tests.support.informers import (
    HOUR,
    NODES,
    PODS,
    UNSELECTED_PODS,
    Kind,
    OnChange,
    Resource,
    State,
)
from trainyard.cluster.cache import ClusterCache
from trainyard.cluster.client import KubeClient
from trainyard.cluster.framing import bounded_lines
from trainyard.cluster.informer import Informer

KEEP_OPEN = object()
"""In a script: keep the connection open."""
CUT = 0
"""Instead of a script: cut the connection before a response."""
CLOSE = object()
"""In a script: end the response properly; without it half an event breaks off."""

Script = list[Any]


class Server:
    """Answers each watch with the next script: events, a status code, or a cut connection."""

    def __init__(self, *scripts: Script | int, kind: Kind = UNSELECTED_PODS) -> None:
        self.kind = kind
        self.scripts = list(scripts)
        self.objects: list[Object] = []
        """What a listing contains."""
        self.versions: list[str] = []
        """The resource version that each watch starts from."""
        self.version = 100
        """Of each listing."""
        self.latest: int | None = 10**6
        """What the server has reached meanwhile; None: no more than that."""
        self.lists = 0
        self.ended = asyncio.Event()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.query.get("limit") == "1":
            latest = self.version if self.latest is None else self.latest
            return web.json_response({"metadata": {"resourceVersion": str(latest)}, "items": None})
        if "watch" not in request.query:
            self.lists += 1
            assert request.query["limit"] == "500"
            meta = {"resourceVersion": str(self.version)}
            return web.json_response({"metadata": meta, "items": self.objects})
        self.versions.append(request.query["resourceVersion"])
        assert request.query["allowWatchBookmarks"] == "true"
        script: Script | int = self.scripts.pop(0) if self.scripts else [KEEP_OPEN]
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
            if item is KEEP_OPEN:
                await self.ended.wait()
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


def event(kind: str, name: str, version: int, of: Kind = PODS) -> dict[str, Any]:
    # Each version differs by more than its number, as a node's change would be none otherwise.
    state = State(has_gpus=bool(version % 2), is_finished=bool(version % 4 // 2))
    return {"type": kind, "object": of.raw(name, version, state=state)}


def bookmark(version: int) -> dict[str, Any]:
    return {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(version)}}}


EXPIRED = {
    "type": "ERROR",
    "object": {"kind": "Status", "metadata": {}, "code": 410, "message": "too old"},
}

Change = tuple[tuple[str, int] | None, tuple[str, int] | None]


class Observed:
    """The changes that an informer reported, as pairs of name and version."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.cache = ClusterCache()
        self.has_ended = False
        self.informer: Informer[Any] | None = None

    def on_change(self, old: Resource | None, new: Resource | None) -> None:
        self.changes.append((_short(old), _short(new)))

    @property
    def added(self) -> list[str]:
        """The names of the objects that appeared."""
        return [new[0] for old, new in self.changes if old is None and new is not None]


def _short(found: Resource | None) -> tuple[str, int] | None:
    return None if found is None else (found.name, found.resource_version)


@asynccontextmanager
async def informing(
    server: Server, on_change: OnChange | None = None, relist_interval: timedelta = HOUR
) -> AsyncIterator[Observed]:
    app = web.Application()
    app.router.add_get(server.kind.path, server.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    observed = Observed()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        await web.SockSite(runner, listener).start()
        configuration = kube_client.Configuration()
        configuration.host = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with KubeClient(configuration) as client:
            observed.informer = server.kind.informer(
                client, observed.cache, on_change or observed.on_change, relist_interval
            )
            task = asyncio.create_task(observed.informer.run())
            task.add_done_callback(lambda _: setattr(observed, "has_ended", True))
            yield observed
            assert not task.done(), _first(task.exception())
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            server.ended.set()
        await runner.cleanup()


def _first(error: BaseException | None) -> BaseException | None:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def until(what: Any) -> None:
    async with asyncio.timeout(10):
        while not what():
            await asyncio.sleep(0.005)


@pytest.fixture(params=[UNSELECTED_PODS, NODES], ids=str)
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


async def test_events_arrive_in_order_after_one_listing(kind: Kind) -> None:
    script = [event("ADDED", "a", 101, kind), event("MODIFIED", "a", 102, kind), KEEP_OPEN]
    server = Server(script, kind=kind)
    async with informing(server) as observed:
        await until(lambda: len(observed.changes) == 2)
    assert observed.changes == [(None, ("a", 101)), (("a", 101), ("a", 102))]
    assert (server.versions, server.lists) == (["100"], 1)


async def test_fields_that_are_not_read_are_not_decoded() -> None:
    shapes = []

    def parse(raw: Any) -> Any:
        shapes.append(raw)
        return PODS.parse(raw)

    async with informing(Server([event("ADDED", "a", 101), KEEP_OPEN])) as observed:
        assert observed.informer is not None
        observed.informer._parse = parse
        await until(lambda: observed.changes)
    assert "labels" in shapes[0]["metadata"]
    assert "managedFields" not in shapes[0]["metadata"]


async def test_what_was_there_before_is_listed_and_its_old_events_change_nothing(
    kind: Kind,
) -> None:
    server = Server(
        [event("MODIFIED", "a", 100, kind), event("ADDED", "b", 102, kind), KEEP_OPEN], kind=kind
    )
    server.objects = [kind.raw("a", 100)]
    async with informing(server) as observed:
        await until(lambda: len(observed.changes) == 2)
        assert observed.informer is not None
        assert observed.informer.has_synced.is_set()
    assert observed.changes == [(None, ("a", 100)), (None, ("b", 102))]


async def test_a_watch_that_ends_continues_after_the_last_event_and_lists_nothing() -> None:
    server = Server(
        [event("ADDED", "a", 101), bookmark(140)],
        [event("DELETED", "a", 150)],
        [KEEP_OPEN],
    )
    async with informing(server) as observed:
        await until(lambda: len(server.versions) == 3)
    assert server.versions == ["100", "140", "150"]
    assert observed.changes == [(None, ("a", 101)), (("a", 101), None)]
    assert server.lists == 1


async def test_a_deletion_during_a_disconnect_comes_with_the_resumed_watch(kind: Kind) -> None:
    server = Server(
        [event("ADDED", "a", 101, kind), CLOSE],
        [event("DELETED", "a", 102, kind), KEEP_OPEN],
        kind=kind,
    )
    async with informing(server) as observed:
        await until(lambda: len(observed.changes) == 2)
    assert observed.changes == [(None, ("a", 101)), (("a", 101), None)]
    assert (server.versions, server.lists) == (["100", "101"], 1)


async def test_an_event_that_was_cut_in_the_middle_is_requested_again() -> None:
    half = _line(event("MODIFIED", "a", 102))[:90]
    server = Server(
        [event("ADDED", "a", 101), half],
        [half, CLOSE],
        [event("MODIFIED", "a", 102), KEEP_OPEN],
    )
    async with informing(server) as observed:
        await until(lambda: len(observed.changes) == 2)
    assert observed.changes == [(None, ("a", 101)), (("a", 101), ("a", 102))]
    assert server.versions == ["100", "101", "101"]
    assert server.lists == 1


@pytest.mark.parametrize("refusal", [[EXPIRED], 410, 403, 500], ids=["event", "410", "403", "500"])
async def test_a_version_that_the_server_refuses_leads_to_a_new_listing(
    refusal: Script | int, caplog: pytest.LogCaptureFixture, kind: Kind
) -> None:
    """The listing finds what was added, changed and deleted without an event."""
    script = [event("ADDED", name, 101 + number, kind) for number, name in enumerate("abc")]
    server = Server(script, refusal, [event("ADDED", "d", 301, kind), KEEP_OPEN], kind=kind)
    with caplog.at_level(logging.WARNING):
        async with informing(server) as observed:
            await until(lambda: server.versions)
            await until(lambda: len(observed.changes) == 3)
            server.objects = [
                event("", "a", 101, kind)["object"],
                event("", "b", 203, kind)["object"],
                event("", "new", 300, kind)["object"],
            ]
            server.version = 300
            await until(lambda: "d" in observed.added)
            known = {key.name for key in kind.store(observed.cache)}
    assert server.versions == ["100", "103", "300"]
    assert server.lists == 2
    assert known == {"a", "b", "new", "d"}
    assert observed.changes[3:] == [
        (("b", 102), ("b", 203)),
        (None, ("new", 300)),
        (("c", 103), None),
        (None, ("d", 301)),
    ]
    assert bool(caplog.records) is (refusal in (403, 500)), "an expired version is nothing unusual"


@pytest.mark.parametrize("before", [[], [[event("ADDED", "a", 101)], 410]], ids=["first", "later"])
async def test_a_watch_that_is_cut_off_after_a_listing_starts_from_that_listing(
    before: list[Any],
) -> None:
    server = Server(*before, CUT, CUT, [event("ADDED", "b", 102), KEEP_OPEN])
    async with informing(server) as observed:
        await until(lambda: observed.added and observed.added[-1] == "b")
    assert server.versions[-3:] == ["100", "100", "100"], "nothing since is missed"
    assert server.lists == (2 if before else 1)


async def test_an_informer_that_is_refused_at_the_start_raises() -> None:
    with pytest.raises(AssertionError, match="not now"):
        async with informing(Server(403)) as observed:
            await until(lambda: observed.has_ended)
    assert observed.changes == []


async def test_a_version_that_expires_during_the_first_listing_is_no_refusal() -> None:
    """Listing a large collection may take longer than the server keeps a version."""
    server = Server(410, [event("ADDED", "a", 101), KEEP_OPEN])
    async with informing(server) as observed:
        await until(lambda: observed.changes)
    assert server.lists == 2


async def test_a_server_that_fails_at_the_start_is_waited_for_and_nothing_is_reported_twice() -> (
    None
):
    server = Server(500, [KEEP_OPEN])
    server.objects = [PODS.raw("a", 99)]
    async with informing(server) as observed:
        await until(lambda: len(server.versions) == 2)
        await until(lambda: observed.changes)
    assert observed.changes == [(None, ("a", 99))]


async def test_an_object_that_cannot_be_read_hides_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    odd = event("ADDED", "odd", 101)
    odd["object"]["spec"] = "?"
    async with informing(Server([odd, event("ADDED", "a", 102), KEEP_OPEN])) as observed:
        await until(lambda: observed.changes)
    assert observed.changes == [(None, ("a", 102))]
    assert "pod default/odd cannot be read" in caplog.text
    assert "Expected `object`, got `str` - at `$.spec`" in caplog.text


async def test_an_object_that_cannot_be_read_is_deleted_like_any_other(kind: Kind) -> None:
    odd = event("DELETED", "a", 102, kind)
    odd["object"]["spec"] = "?"
    server = Server([event("ADDED", "a", 101, kind), odd, KEEP_OPEN], kind=kind)
    async with informing(server) as observed:
        await until(lambda: len(observed.changes) == 2)
    assert observed.changes[1] == (("a", 101), None)


async def test_a_mistake_of_ours_ends_the_informer_and_with_it_the_process() -> None:
    """A watch that is silent for ever would be worse."""

    def fail(_: Resource | None, new: Resource | None) -> None:
        raise RuntimeError(f"ADDED {new and new.name}")

    server = Server([event("ADDED", "a", 101), KEEP_OPEN])
    with pytest.raises(AssertionError, match="ADDED a"):
        async with informing(server, fail) as observed:
            await until(lambda: observed.has_ended)


async def test_objects_larger_than_the_buffer_are_read_whole() -> None:
    big = event("ADDED", "a", 101)
    big["object"]["metadata"]["annotations"] = {"x": "y" * 3_000_000}
    async with informing(Server([big, KEEP_OPEN])) as observed:
        await until(lambda: observed.changes)
    assert observed.changes == [(None, ("a", 101))]


async def test_a_deletion_missed_during_a_disconnect_is_noticed_by_the_next_listing(
    kind: Kind,
) -> None:
    """Its event is never sent again where the server has forgotten it."""
    server = Server([event("ADDED", "a", 101, kind), KEEP_OPEN], kind=kind)
    async with informing(server, relist_interval=timedelta(milliseconds=50)) as observed:
        await until(lambda: observed.changes)
        server.version = 110
        await until(lambda: len(observed.changes) == 2)
    assert observed.changes == [(None, ("a", 101)), (("a", 101), None)]
    assert server.versions == ["100"], "the watch goes on beside the listing"


async def test_a_periodic_listing_that_fails_is_repeated_soon(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("trainyard.cluster.informer.LAST_PAUSE_SECONDS", 0.01)
    server = Server([KEEP_OPEN])
    answer = server.answer
    failures = iter([False, True, True])

    async def fail_twice(request: web.Request) -> web.StreamResponse:
        is_listing = "watch" not in request.query and request.query["limit"] != "1"
        if is_listing and next(failures, False):
            return web.json_response({"message": "not now"}, status=500)
        return await answer(request)

    server.answer = fail_twice  # type: ignore[method-assign]
    async with informing(server, relist_interval=timedelta(milliseconds=20)) as observed:
        await until(lambda: server.lists == 1)
        server.objects = [PODS.raw("a", 99)]
        await until(lambda: observed.changes)
    assert caplog.text.count("/api/v1/pods could not be listed: not now") == 2


async def test_a_line_longer_than_any_buffer_is_read_whole(kind: Kind) -> None:
    """A pod of a megabyte of `<` is an event of six: it ended every replica, at each event."""
    big = event("ADDED", "big", 101, kind)
    big["object"]["metadata"]["annotations"] = {"x": "<" * 1_000_000}
    line = _line(big).replace(b"<", b"\\u003c")
    assert len(line) > 6_000_000
    server = Server([line, _line(event("ADDED", "a", 102, kind)), bookmark(103), KEEP_OPEN])
    server.kind = kind
    async with informing(server) as observed:
        await until(lambda: len(observed.changes) == 2)
    assert observed.added == ["big", "a"]


async def test_an_oversized_event_is_passed_over_and_its_object_is_listed(
    kind: Kind, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("trainyard.cluster.informer.UNREADABLE_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(bounded_lines, "__defaults__", (20_000,))
    big = event("ADDED", "big", 101, kind)
    big["object"]["metadata"]["annotations"] = {"x": "y" * 30_000}
    small = event("ADDED", "a", 102, kind)
    server = Server([big, small, KEEP_OPEN], kind=kind)
    async with informing(server) as observed:
        await until(lambda: observed.added)
        assert observed.added == ["a"]
        server.objects, server.version = [big["object"], small["object"]], 102
        await until(lambda: len(observed.added) == 2)
    assert observed.added == ["a", "big"]
    assert server.versions == ["100"], "the watch goes on"
    assert caplog.text.count("an event of more than 20000 bytes") == 1
    assert '"name": "big"' in caplog.text


@pytest.mark.parametrize("line", [b"?\n", b"{}\n", b'{"type": 1, "object": {}}\n', b"\xff\n"])
async def test_an_event_that_is_none_hides_no_other(
    line: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("trainyard.cluster.informer.UNREADABLE_PAUSE_SECONDS", 0.01)
    server = Server([line, event("ADDED", "a", 102), KEEP_OPEN])
    async with informing(server) as observed:
        await until(lambda: observed.changes)
    assert observed.changes[0] == (None, ("a", 102))
    assert "an event cannot be decoded" in caplog.text


async def test_an_object_nested_too_deep_hides_no_other(
    kind: Kind, caplog: pytest.LogCaptureFixture
) -> None:
    """The API server takes ten thousand levels, a decoder a thousand."""
    deep = event("ADDED", "deep", 101, kind)
    nested = _line(deep).replace(
        b'"fieldsV1": {', b'"x": ' + b"[" * 9000 + b"]" * 9000 + b', "y": {'
    )
    server = Server([nested, event("ADDED", "a", 102, kind), KEEP_OPEN], kind=kind)
    async with informing(server) as observed:
        await until(lambda: "a" in observed.added)
    assert observed.added == ["deep", "a"]
    assert "/deep is nested too deep to be read whole" in caplog.text


async def test_after_a_restore_the_watch_begins_with_a_listing(
    kind: Kind, caplog: pytest.LogCaptureFixture
) -> None:
    """A watch from a version that the server has yet to reach again is silent until then."""
    server = Server(
        [event("ADDED", "a", 9001, kind), event("ADDED", "b", 9002, kind), CLOSE],
        [event("MODIFIED", "a", 8003, kind), KEEP_OPEN],
        kind=kind,
    )
    server.version = 9000
    async with informing(server) as observed:
        await until(lambda: server.versions)
        server.objects = [event("", "a", 7002, kind)["object"]]
        server.version, server.latest = 8000, None
        await until(lambda: len(observed.changes) == 5)
    assert server.versions == ["9000", "8000"]
    assert observed.changes[2:] == [
        (("a", 9001), ("a", 7002)),
        (("b", 9002), None),
        (("a", 7002), ("a", 8003)),
    ]
    assert "restored to an older state" in caplog.text
