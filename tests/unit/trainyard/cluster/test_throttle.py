"""The limit on requests: it grows and halves, lanes take turns, and no slot is ever lost."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from trainyard.cluster.throttle import Priority, Throttle


class Crowd:
    """Tasks that hold slots until they are let go, in the order in which they got them."""

    def __init__(self, throttle: Throttle) -> None:
        self.throttle = throttle
        self.inside: list[str] = []
        self.entered: list[str] = []
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._leave: dict[str, asyncio.Event] = {}

    async def come(self, *names: str, lane: Priority = Priority.WORK) -> None:
        for name in names:
            self._leave[name] = asyncio.Event()
            self._tasks[name] = asyncio.create_task(self._hold(name, lane))
        await quiet()

    async def leave(self, name: str) -> None:
        self._leave[name].set()
        await self._tasks[name]
        await quiet()

    async def cancel(self, name: str) -> None:
        self._tasks[name].cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._tasks[name]
        await quiet()

    def cancel_at_once(self, name: str) -> None:
        self._tasks[name].cancel()

    async def _hold(self, name: str, lane: Priority) -> None:
        async with self.throttle.slot(lane):
            self.entered.append(name)
            self.inside.append(name)
            try:
                await self._leave[name].wait()
            finally:
                self.inside.remove(name)

    async def disperse(self) -> None:
        for event in self._leave.values():
            event.set()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)


async def quiet() -> None:
    """Let every task that can go on do so."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
def crowd() -> Crowd:
    return Crowd(Throttle(start=2, floor=2, ceiling=4))


async def test_no_more_than_the_limit_are_under_way(crowd: Crowd) -> None:
    await crowd.come("a", "b", "c", "d")
    assert crowd.inside == ["a", "b"]
    await crowd.leave("a")
    assert crowd.inside == ["b", "c"]
    await crowd.disperse()
    assert crowd.entered == ["a", "b", "c", "d"]


def test_the_limit_grows_by_one_for_each_window_of_answers() -> None:
    throttle = Throttle(start=8, ceiling=64)
    for _ in range(8):
        throttle.accepted()
    assert throttle.limit in (8, 9)
    throttle.accepted()
    assert throttle.limit == 9


def test_the_limit_halves_when_the_server_says_it_is_too_much() -> None:
    throttle = Throttle(start=32, floor=3)
    limits = []
    for _ in range(6):
        throttle.refused()
        limits.append(throttle.limit)
    assert limits == [16, 8, 4, 3, 3, 3]


def test_the_limit_never_exceeds_its_ceiling() -> None:
    throttle = Throttle(start=2, ceiling=4)
    for _ in range(1000):
        throttle.accepted()
    assert throttle.limit == 4


async def test_a_limit_that_grew_lets_more_in(crowd: Crowd) -> None:
    await crowd.come("a", "b", "c", "d", "e")
    for _ in range(100):
        crowd.throttle.accepted()
    await crowd.leave("a")
    assert crowd.inside == ["b", "c", "d", "e"]
    await crowd.disperse()


async def test_a_limit_that_halved_lets_nobody_in_until_enough_have_left() -> None:
    crowd = Crowd(Throttle(start=4, floor=2, ceiling=4))
    await crowd.come("a", "b", "c", "d", "e")
    crowd.throttle.refused()
    await crowd.leave("a")
    await crowd.leave("b")
    assert crowd.inside == ["c", "d"]
    await crowd.leave("c")
    assert crowd.inside == ["d", "e"]
    await crowd.disperse()


async def test_lanes_take_turns(crowd: Crowd) -> None:
    await crowd.come("x", "y")
    await crowd.come("w1", "w2", "w3", "w4", "w5")
    await crowd.come("s1", "s2", lane=Priority.STATUS)
    for name in ("x", "y", "s1", "w1", "s2", "w2"):
        await crowd.leave(name)
    assert crowd.entered == ["x", "y", "s1", "w1", "s2", "w2", "w3", "w4"]
    await crowd.disperse()


async def test_whoever_gives_up_waiting_takes_no_slot_along(crowd: Crowd) -> None:
    await crowd.come("a", "b", "c", "d")
    await crowd.cancel("c")
    await crowd.leave("a")
    assert crowd.inside == ["b", "d"]
    await crowd.disperse()


async def test_whoever_gives_up_just_as_its_turn_comes_passes_it_on(crowd: Crowd) -> None:
    await crowd.come("a", "b", "c", "d")
    crowd.cancel_at_once("a")  # frees its slot for c ...
    await asyncio.sleep(0)  # ... which is told, and has not gone on yet
    crowd.cancel_at_once("c")
    await quiet()
    assert crowd.inside == ["b", "d"]
    await crowd.disperse()


async def test_a_holder_that_is_cancelled_frees_its_slot(crowd: Crowd) -> None:
    await crowd.come("a", "b", "c")
    await crowd.cancel("a")
    assert crowd.inside == ["b", "c"]
    await crowd.disperse()


async def test_every_slot_is_free_after_any_mixture_of_ends(crowd: Crowd) -> None:
    for turn in range(20):
        names = [f"{turn}-{n}" for n in range(6)]
        await crowd.come(*names[:4])
        await crowd.come(*names[4:], lane=Priority.STATUS)
        for place, name in enumerate(names):
            if (turn + place) % 3 == 0:
                await crowd.cancel(name)
        await crowd.disperse()
    fresh = Crowd(crowd.throttle)
    await fresh.come("a", "b", "c")
    assert fresh.inside == ["a", "b"]
    await fresh.disperse()
