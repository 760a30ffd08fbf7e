"""The limit on requests: it grows and halves, priorities alternate, and no slot is ever lost."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from trainyard.cluster.throttle import Priority, Throttle


class Crowd:
    """Tasks that hold slots until they are released, in the order in which they got them."""

    def __init__(self, throttle: Throttle) -> None:
        self.throttle = throttle
        self.inside: list[str] = []
        self.entered: list[str] = []
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._leave: dict[str, asyncio.Event] = {}

    async def come(self, *names: str, priority: Priority = Priority.WORK) -> None:
        for name in names:
            self._leave[name] = asyncio.Event()
            self._tasks[name] = asyncio.create_task(self._hold(name, priority))
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

    async def _hold(self, name: str, priority: Priority) -> None:
        async with self.throttle.slot(priority):
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
    """Let every task run until it waits."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
def crowd() -> Crowd:
    return Crowd(Throttle(start=2, floor=2, ceiling=4))


async def test_no_more_requests_than_the_limit_are_in_flight(crowd: Crowd) -> None:
    await crowd.come("a", "b", "c", "d")
    assert crowd.inside == ["a", "b"]
    await crowd.leave("a")
    assert crowd.inside == ["b", "c"]
    await crowd.disperse()
    assert crowd.entered == ["a", "b", "c", "d"]


def test_the_limit_grows_by_one_for_each_window_of_responses() -> None:
    throttle = Throttle(start=8, ceiling=64)
    for _ in range(8):
        throttle.accepted()
    assert throttle.limit in (8, 9)
    throttle.accepted()
    assert throttle.limit == 9


def test_the_limit_halves_when_the_server_throttles() -> None:
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


async def test_a_limit_that_grew_admits_more_requests(crowd: Crowd) -> None:
    await crowd.come("a", "b", "c", "d", "e")
    for _ in range(100):
        crowd.throttle.accepted()
    await crowd.leave("a")
    assert crowd.inside == ["b", "c", "d", "e"]
    await crowd.disperse()


async def test_a_limit_that_halved_admits_none_until_enough_have_ended() -> None:
    crowd = Crowd(Throttle(start=4, floor=2, ceiling=4))
    await crowd.come("a", "b", "c", "d", "e")
    crowd.throttle.refused()
    await crowd.leave("a")
    await crowd.leave("b")
    assert crowd.inside == ["c", "d"]
    await crowd.leave("c")
    assert crowd.inside == ["d", "e"]
    await crowd.disperse()


async def test_priorities_alternate(crowd: Crowd) -> None:
    await crowd.come("x", "y")
    await crowd.come("w1", "w2", "w3", "w4", "w5")
    await crowd.come("s1", "s2", priority=Priority.STATUS)
    for name in ("x", "y", "s1", "w1", "s2", "w2"):
        await crowd.leave(name)
    assert crowd.entered == ["x", "y", "s1", "w1", "s2", "w2", "w3", "w4"]
    await crowd.disperse()


async def test_a_request_cancelled_while_it_waits_keeps_no_slot(crowd: Crowd) -> None:
    await crowd.come("a", "b", "c", "d")
    await crowd.cancel("c")
    await crowd.leave("a")
    assert crowd.inside == ["b", "d"]
    await crowd.disperse()


async def test_a_request_cancelled_as_it_is_admitted_passes_its_slot_on(crowd: Crowd) -> None:
    await crowd.come("a", "b", "c", "d")
    crowd.cancel_at_once("a")  # frees its slot for c ...
    await asyncio.sleep(0)  # ... which is admitted, and has not run yet
    crowd.cancel_at_once("c")
    await quiet()
    assert crowd.inside == ["b", "d"]
    await crowd.disperse()


async def test_a_request_cancelled_in_flight_frees_its_slot(crowd: Crowd) -> None:
    await crowd.come("a", "b", "c")
    await crowd.cancel("a")
    assert crowd.inside == ["b", "c"]
    await crowd.disperse()


async def test_every_slot_is_free_after_any_mixture_of_endings(crowd: Crowd) -> None:
    for number in range(20):
        names = [f"{number}-{n}" for n in range(6)]
        await crowd.come(*names[:4])
        await crowd.come(*names[4:], priority=Priority.STATUS)
        for place, name in enumerate(names):
            if (number + place) % 3 == 0:
                await crowd.cancel(name)
        await crowd.disperse()
    fresh = Crowd(crowd.throttle)
    await fresh.come("a", "b", "c")
    assert fresh.inside == ["a", "b"]
    await fresh.disperse()
