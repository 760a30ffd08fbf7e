"""The limit on requests: namespaces have shares, priorities alternate, and no slot is ever lost."""

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

    async def come(
        self, *names: str, priority: Priority = Priority.WORK, namespace: str = ""
    ) -> None:
        for name in names:
            self._leave[name] = asyncio.Event()
            self._tasks[name] = asyncio.create_task(self._hold(name, priority, namespace))
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

    async def _hold(self, name: str, priority: Priority, namespace: str) -> None:
        async with self.throttle.slot(priority, namespace):
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
    return Crowd(Throttle(slots=4, share=2))


async def test_no_more_requests_of_a_namespace_than_its_share_are_in_flight(crowd: Crowd) -> None:
    await crowd.come("a", "b", "c", "d")
    assert crowd.inside == ["a", "b"]
    await crowd.leave("a")
    assert crowd.inside == ["b", "c"]
    await crowd.disperse()
    assert crowd.entered == ["a", "b", "c", "d"]


async def test_a_slow_namespace_leaves_slots_to_the_others(crowd: Crowd) -> None:
    await crowd.come("s1", "s2", "s3", "s4", "s5", namespace="slow")
    await crowd.come("h1", namespace="honest")
    assert crowd.inside == ["s1", "s2", "h1"]
    await crowd.leave("h1")
    await crowd.come("h2", namespace="honest")
    assert crowd.inside == ["s1", "s2", "h2"], "a free slot is not given to whoever waits longest"
    await crowd.disperse()


async def test_many_slow_namespaces_leave_slots_to_the_next_one() -> None:
    crowd = Crowd(Throttle(slots=64, share=16))
    for number in range(7):
        names = [f"{number}-{n}" for n in range(20)]
        await crowd.come(*names, namespace=f"slow-{number}")
    assert len(crowd.inside) < 64
    await crowd.come("honest", namespace="honest")
    assert "honest" in crowd.inside
    await crowd.disperse()


async def test_no_more_requests_than_there_are_slots_are_in_flight() -> None:
    crowd = Crowd(Throttle(slots=3, share=2))
    for number in range(6):
        await crowd.come(f"{number}", namespace=f"{number}")
    assert crowd.inside == ["0", "1", "2"]
    await crowd.leave("1")
    assert crowd.inside == ["0", "2", "3"]
    await crowd.disperse()
    assert crowd.entered == ["0", "1", "2", "3", "4", "5"]


async def test_namespaces_that_wait_take_turns() -> None:
    crowd = Crowd(Throttle(slots=1, share=1))
    await crowd.come("first")
    await crowd.come("a1", "a2", "a3", "a4", namespace="a")
    await crowd.come("b1", "b2", namespace="b")
    for name in ("first", "a1", "b1", "a2", "b2", "a3"):
        await crowd.leave(name)
    assert crowd.entered == ["first", "a1", "b1", "a2", "b2", "a3", "a4"]
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
