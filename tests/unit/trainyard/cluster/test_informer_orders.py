"""Events, listings and responses in any order end in the newest truth, for pods and nodes alike."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import aiohttp
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.fakeapi import Object
from tests.support.informers import NODES, PODS, Kind, Resource, State
from trainyard.cluster import informer as informer_module
from trainyard.cluster.cache import ClusterCache, PodStore
from trainyard.cluster.client import KubeClient
from trainyard.cluster.decoding import ListMeta, Page, WatchEvent
from trainyard.cluster.errors import ApiError
from trainyard.cluster.informer import Informer

NAMES = ("a", "b")
"""Few, so that names are given again."""
SETTLED = 20
"""Rounds of the event loop after which nothing goes on without the test."""


class Server:
    """One collection and its history, handed out as the test lets it: event by event, page by page.

    A page holds one object. A watch continues from any version that is not forgotten.
    """

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.version = 1
        self.states: dict[str, tuple[str, State]] = {}
        """The uid and state of each object, by name."""
        self.objects: dict[str, Object] = {}
        self.history: list[tuple[int, str, Object]] = []
        self.oldest = 0
        """Watches from a version before this one are refused."""
        self.generation = 0
        """Counts the cuts; a watch of an older generation has lost its connection."""
        self.pages = asyncio.Semaphore(0)
        self.events = asyncio.Semaphore(0)
        self.reached = 0
        """The version up to which the watch has been handed out."""

    @property
    def client(self) -> KubeClient:
        return cast(KubeClient, self)

    def write(self, name: str, state: State) -> Object:
        """Create or change an object; what is finished stays so, and holds as many GPUs."""
        self.version += 1
        uid, old = self.states.get(name, (f"uid-{self.version}", None))
        if old is not None:
            state = State(
                is_ours=state.is_ours,
                has_gpus=old.has_gpus,
                is_finished=old.is_finished or state.is_finished,
            )
        self.states[name] = (uid, state)
        self.objects[name] = self.kind.raw(name, self.version, uid, state)
        self._record("MODIFIED" if old else "ADDED", self.objects[name])
        return self.objects[name]

    def delete(self, name: str) -> None:
        if name in self.objects:
            self.version += 1
            uid, state = self.states.pop(name)
            del self.objects[name]
            self._record("DELETED", self.kind.raw(name, self.version, uid, state))

    def cut(self, *, forget: bool) -> None:
        """Break the watch; one that forgets cannot be resumed from where it was."""
        self.generation += 1
        if forget:
            self.version += 1
            self.oldest = self.version
        self.events.release()  # wakes the watch, which then fails

    def _record(self, event_type: str, found: Object) -> None:
        self.history.append((self.version, event_type, found))

    async def list_pages(self, path: str, **selector: str) -> AsyncIterator[Page]:
        assert path == self.kind.path
        meta = ListMeta(resource_version=str(self.version))
        found = [raw for raw in self.objects.values() if self._selects(raw, selector)]
        for raw in found:
            await self.pages.acquire()
            yield Page(metadata=meta, items=[_encoded(raw)])
        await self.pages.acquire()
        yield Page(metadata=meta, items=[])

    async def latest_version(self, path: str) -> str:
        assert path == self.kind.path
        return str(self.version)

    def _selects(self, raw: Object, selector: dict[str, str]) -> bool:
        _, state = self.states[raw["metadata"]["name"]]
        if "label_selector" in selector:
            return state.is_ours
        return "field_selector" not in selector or not state.is_finished

    @asynccontextmanager
    async def watch(self, path: str, version: str) -> AsyncIterator[AsyncIterator[WatchEvent]]:
        assert path == self.kind.path
        if int(version) < self.oldest:
            raise ApiError(410, "Expired", "too old")
        yield self._events(int(version), self.generation)

    async def _events(self, version: int, generation: int) -> AsyncIterator[WatchEvent]:
        self.reached = version
        while True:
            await self.events.acquire()
            if generation != self.generation:
                raise aiohttp.ClientConnectionError("cut off")
            found = next((entry for entry in self.history if entry[0] > self.reached), None)
            if found is not None:
                self.reached, event_type, raw = found
                yield WatchEvent(event_type, _encoded(raw))


def _encoded(raw: Object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(raw))


class World:
    """A server, an informer of it, and whoever reads what the informer reports."""

    def __init__(self, kind: Kind) -> None:
        self.kind, self.server, self.cache = kind, Server(kind), ClusterCache()
        self.store = kind.store(self.cache)
        self.reported: dict[str, Resource] = {}
        """What the reported changes and our own responses add up to."""
        self.responses: deque[Resource] = deque()
        self.informer: Informer[Any] = kind.informer(self.server.client, self.cache, self.on_change)
        self.tasks = [asyncio.create_task(self.informer.run())]

    def on_change(self, old: Resource | None, new: Resource | None) -> None:
        changed = old or new
        assert changed is not None
        assert self.reported.get(changed.name) == old, "a change was not reported"
        if new is None:
            del self.reported[changed.name]
        else:
            self.reported[changed.name] = new

    async def take(self, step: tuple[Any, ...]) -> None:
        match step:
            case ("write", name, state):
                self.server.write(name, state)
            case ("request", name, state):
                self.responses.append(self.kind.parse(self.server.write(name, state)))
            case ("respond",):
                self.respond()
            case ("delete", name):
                self.server.delete(name)
            case ("event",):
                self.server.events.release()
            case ("page",):
                self.server.pages.release()
            case ("relist",):
                self.tasks.append(asyncio.create_task(self.relist()))
            case ("cut", forget):
                self.server.cut(forget=forget)
        await self.settle()

    async def relist(self) -> None:
        await self.informer.relist()

    def respond(self) -> None:
        """The response to a request of ours arrives, and is put into the store."""
        if self.responses:
            response = self.responses.popleft()
            self.store.put(response)
            found = self.store.get(self.kind.key(response.name))
            if found is None:
                self.reported.pop(response.name, None)
            else:
                self.reported[response.name] = found

    async def settle(self) -> None:
        """Let everything go on that does not wait for the test; every change is reported."""
        for _ in range(SETTLED):
            await asyncio.sleep(0)
        assert {key.name: found for key, found in self.store.items()} == self.reported

    async def catch_up(self) -> None:
        """Let all that is under way arrive."""
        for _ in range(100):
            self.server.pages.release()
            self.server.events.release()
            await self.settle()
            is_listing = any(not task.done() for task in self.tasks[1:])
            if self.server.reached >= self.server.version and not is_listing:
                return
        raise AssertionError("the informer does not catch up")

    def truth(self) -> dict[str, Resource]:
        return {
            name: self.kind.parse(raw)
            for name, raw in self.server.objects.items()
            if self.kind.is_relevant(self.server.states[name][1])
        }

    async def close(self) -> None:
        for task in self.tasks:
            assert not task.done() or task.exception() is None
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


Steps = Sequence[tuple[Any, ...]]

OURS = State()
OURS_FINISHED = State(is_finished=True)
FOREIGN = State(is_ours=False, has_gpus=True)
FOREIGN_FINISHED = State(is_ours=False, has_gpus=True, is_finished=True)

SCENARIOS: dict[str, tuple[State | None, Steps]] = {
    "a listing begun before a change does not undo it": (
        OURS,
        [("relist",), ("write", "a", OURS_FINISHED), ("event",), ("page",)],
    ),
    "a listing begun before a deletion does not undo it": (
        OURS,
        [("relist",), ("delete", "a"), ("event",), ("page",)],
    ),
    "a listing begun before a pod released its GPUs does not undo it": (
        FOREIGN,
        [("relist",), ("write", "a", FOREIGN_FINISHED), ("event",), ("page",)],
    ),
    "what is created while a listing is made is not missing in it": (
        None,
        [("relist",), ("write", "a", OURS), ("event",), ("page",), ("page",)],
    ),
    "what is created by us while a listing is made is not missing in it": (
        None,
        [("relist",), ("request", "a", OURS), ("respond",), ("page",), ("page",)],
    ),
    "what a listing knows already is not undone by events that lag behind": (
        None,
        [
            *(("write", "a", OURS), ("delete", "a"), ("write", "a", OURS_FINISHED)),
            *(("relist",), ("page",), ("page",), ("page",), ("event",), ("event",)),
        ],
    ),
    "a response that comes after the deletion does not undo it": (
        None,
        [("request", "a", OURS), ("delete", "a"), ("event",), ("event",), ("respond",)],
    ),
    "a response that comes after a listing that lacks the object is outdated": (
        None,
        [
            *(("request", "a", OURS), ("delete", "a"), ("cut", True)),
            *(("page",), ("page",), ("respond",)),
        ],
    ),
    "a response that comes during a listing that lacks the object is undone by it": (
        None,
        [
            *(("relist",), ("request", "a", FOREIGN), ("delete", "a")),
            *(("page",), ("page",), ("cut", True)),
        ],
    ),
    "a response of a namesake replaces the object before its deletion is seen": (
        OURS,
        [("delete", "a"), ("request", "a", OURS), ("respond",), ("event",)],
    ),
    "what is created between two LISTs of a listing is left to its event": (
        None,
        [("relist",), ("write", "a", FOREIGN), ("page",), ("page",), ("event",)],
    ),
    "what is in neither of two LISTs because it changed between them stays": (
        FOREIGN,
        [
            *(("relist",), ("write", "a", OURS), ("write", "a", OURS_FINISHED)),
            *(("page",), ("page",), ("page",), ("page",), ("event",), ("event",)),
        ],
    ),
    "what was irrelevant to a listing may become relevant": (
        FOREIGN,
        [
            *(("write", "a", FOREIGN_FINISHED), ("relist",), ("page",), ("page",)),
            *(("write", "a", OURS), ("event",), ("event",)),
        ],
    ),
    "a listing that ends after a disconnect is followed by another": (
        None,
        [("write", "a", OURS), ("relist",), ("delete", "a"), ("cut", True), ("page",)],
    ),
    "changes during a disconnect are found": (
        OURS,
        [("cut", True), ("write", "a", OURS_FINISHED), ("write", "b", OURS), ("page",)],
    ),
    "a deletion during a disconnect is found": (OURS, [("cut", True), ("delete", "a")]),
    "a namesake during a disconnect is found": (
        OURS,
        [("cut", True), ("delete", "a"), ("write", "a", OURS_FINISHED)],
    ),
}
"""By what it shows: the state of object `a` at first, and what happens."""


@pytest.mark.parametrize("kind", [PODS, NODES], ids=str)
@pytest.mark.parametrize("responds_last", [False, True], ids=["", "responses last"])
@pytest.mark.parametrize(("first", "steps"), SCENARIOS.values(), ids=SCENARIOS)
async def test_the_store_ends_in_the_newest_truth(
    kind: Kind, first: State | None, steps: Steps, responds_last: bool
) -> None:
    before = [("a", first)] if first is not None else []
    await play(kind, before, steps, responds_last=responds_last)


async def play(
    kind: Kind, before: Sequence[tuple[str, State]], steps: Steps, *, responds_last: bool
) -> None:
    """Take the steps in a world that knows what was there `before`, and see where they end."""
    world = World(kind)
    for name, state in before:
        world.server.write(name, state)
    await world.catch_up()
    for step in steps:
        await world.take(step)
    if responds_last:
        await world.catch_up()
    while world.responses:
        world.respond()
    await world.catch_up()
    assert {key.name: found for key, found in world.store.items()} == world.truth()
    _check_indices(world.cache.pods)
    await world.close()


def _check_indices(pods: PodStore) -> None:
    ours = {pod.name for pod in pods.values() if pod.job is not None}
    jobs = {pod.job for pod in pods.values() if pod.job is not None}
    assert {pod.name for job in jobs for pod in pods.of_job(job)} == ours
    holding = {pod.name for pod in pods.values() if not pod.is_finished}
    assert {pod.name for pod in pods.holders()} == holding


names = st.sampled_from(NAMES)
states = st.builds(State, is_ours=st.booleans(), has_gpus=st.booleans(), is_finished=st.booleans())
steps = st.one_of(
    st.tuples(st.just("write"), names, states),
    st.tuples(st.just("request"), names, states),
    st.just(("respond",)),
    st.tuples(st.just("delete"), names),
    st.just(("event",)),
    st.just(("page",)),
    st.just(("page",)),
    st.just(("relist",)),
    st.tuples(st.just("cut"), st.booleans()),
)


@pytest.fixture(scope="module", autouse=True)
def _without_pauses() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(informer_module, "FIRST_PAUSE_SECONDS", 0)
        patch.setattr(informer_module, "LAST_PAUSE_SECONDS", 0)
        yield


@pytest.mark.parametrize("kind", [PODS, NODES], ids=str)
@given(
    before=st.lists(st.tuples(names, states), max_size=2),
    taken=st.lists(steps, max_size=25),
    responds_last=st.booleans(),
)
def test_the_store_ends_in_the_newest_truth_whatever_happens(
    kind: Kind,
    before: list[tuple[str, State]],
    taken: list[tuple[Any, ...]],
    responds_last: bool,
) -> None:
    asyncio.run(play(kind, before, taken, responds_last=responds_last))
