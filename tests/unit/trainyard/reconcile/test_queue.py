"""The work queue: once waiting, again if touched, patient with failures, bounded in workers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from trainyard.reconcile import queue as queue_module
from trainyard.reconcile.queue import WorkQueue


class Site:
    """A queue whose handler says when it runs and, if told so, waits to be let go."""

    def __init__(self, **settings: Any) -> None:
        self.runs: list[str] = []
        self.at: list[float] = []
        self.under_way = 0
        self.most = 0
        self.answers: dict[str, float | Exception | None] = {}
        self.gates: dict[str, asyncio.Event] = {}
        self._changed = asyncio.Condition()
        self.queue: WorkQueue[str] = WorkQueue("test", self._handle, **settings)

    async def _handle(self, key: str) -> float | None:
        self.runs.append(key)
        self.at.append(asyncio.get_running_loop().time())
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await self._tell()
        if gate := self.gates.get(key):
            await gate.wait()
        self.under_way -= 1
        await self._tell()
        answer = self.answers.get(key)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(5), self._changed:
            await self._changed.wait_for(holds)

    async def until_runs(self, number: int) -> None:
        await self.until(lambda: len(self.runs) >= number)


@contextlib.asynccontextmanager
async def working(**settings: Any) -> AsyncIterator[Site]:
    site = Site(**settings)
    task = asyncio.create_task(site.queue.run())
    try:
        yield site
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def idle() -> None:
    """Let every task that can go on do so."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_the_first_event_of_a_quiet_key_acts_at_once() -> None:
    async with working(settle_seconds=1000) as site:
        site.queue.add("a")
        await site.until_runs(1)


async def test_a_key_waits_at_most_once() -> None:
    async with working(workers=1) as site:
        site.gates["a"] = asyncio.Event()
        site.queue.add("a")
        await site.until_runs(1)
        for _ in range(5):
            site.queue.add("b")
        assert site.queue.depth == 2
        site.gates["a"].set()
        await site.until_runs(2)
        await idle()
        assert site.runs == ["a", "b"]
        assert site.queue.depth == 0


async def test_a_key_that_is_touched_while_it_runs_runs_once_more() -> None:
    async with working() as site:
        site.gates["a"] = asyncio.Event()
        site.queue.add("a")
        await site.until_runs(1)
        for _ in range(5):
            site.queue.add("a")
        await idle()
        assert site.runs == ["a"], "never twice at a time"
        site.gates["a"].set()
        await site.until_runs(2)
        await idle()
        assert site.runs == ["a", "a"]


async def test_no_more_workers_than_allowed() -> None:
    async with working(workers=3) as site:
        for n in range(9):
            site.gates[str(n)] = asyncio.Event()
            site.queue.add(str(n))
        await site.until_runs(3)
        await idle()
        assert (site.under_way, site.queue.depth) == (3, 9)
        for gate in site.gates.values():
            gate.set()
        await site.until(lambda: len(site.runs) == 9 and site.under_way == 0)
        assert site.most == 3


async def test_under_load_the_events_of_one_key_settle_into_one_run() -> None:
    # Long beside any pause of this process between the runs.
    async with working(workers=1, settle_seconds=0.5) as site:
        site.queue.add("a")
        await site.until(lambda: site.runs == ["a"] and not site.under_way)
        site.gates["busy"] = asyncio.Event()
        site.queue.add("busy")
        await site.until_runs(2)
        site.queue.add("waits")  # as many runs as there are workers, so close together: load
        for _ in range(5):
            site.queue.add("a", follows=True)
        site.gates["busy"].set()
        await site.until_runs(4)
        assert site.runs == ["a", "busy", "waits", "a"]
        assert site.at[3] - site.at[0] >= 0.5


async def test_follow_ups_do_not_wait_for_all_newcomers_nor_newcomers_for_all_follow_ups() -> None:
    async with working(workers=1, settle_seconds=0.0) as site:
        site.gates["first"] = asyncio.Event()
        site.queue.add("first")
        await site.until_runs(1)
        news = [f"news-{n}" for n in range(queue_module.AHEAD + 2)]
        for key in ("new-1", "new-2", "new-3"):
            site.queue.add(key)
        for key in news:
            site.queue.add(key, follows=True)
        site.gates["first"].set()
        await site.until_runs(1 + 3 + len(news))
        ahead, rest = news[: queue_module.AHEAD], news[queue_module.AHEAD :]
        assert site.runs == ["first", *ahead, "new-1", *rest, "new-2", "new-3"]


async def test_a_newcomer_goes_ahead_with_the_follow_up_that_meets_it_in_the_line() -> None:
    async with working(workers=1, settle_seconds=0.0) as site:
        site.gates["first"] = asyncio.Event()
        site.queue.add("first")
        await site.until_runs(1)
        for key in ("new-1", "new-2", "new-3"):
            site.queue.add(key)
        for _ in range(2):
            site.queue.add("new-2", follows=True)
        assert site.queue.depth == 4
        site.gates["first"].set()
        await site.until_runs(4)
        await idle()
        assert site.runs == ["first", "new-2", "new-1", "new-3"], "each once"
        site.queue.add("new-2")
        await site.until(lambda: len(site.runs) == 5 and not site.under_way)
        await idle()
        assert (site.runs[-1], site.queue.depth) == ("new-2", 0)


async def test_a_key_touched_while_it_runs_does_not_go_behind_the_newcomers() -> None:
    """Its pods may run already, and somebody waits to hear of it."""
    async with working(workers=1, settle_seconds=1000) as site:
        site.gates["a"] = asyncio.Event()
        site.queue.add("a")
        await site.until_runs(1)
        for key in ("new-1", "new-2"):
            site.queue.add(key)
        site.queue.add("a")
        site.gates["a"].set()
        await site.until_runs(4)
        assert site.runs == ["a", "a", "new-1", "new-2"]


async def test_a_newcomer_does_not_settle_however_much_is_going_on() -> None:
    async with working(workers=1, settle_seconds=1000) as site:
        site.queue.add("a")
        await site.until(lambda: site.runs == ["a"] and not site.under_way)
        await idle()
        site.queue.add("a")
        await site.until_runs(2)


async def test_a_key_touched_by_a_newcomers_cause_while_it_runs_does_not_settle() -> None:
    async with working(workers=1, settle_seconds=1000) as site:
        site.gates["a"] = asyncio.Event()
        site.queue.add("a")
        await site.until_runs(1)
        site.queue.add("a", follows=True)
        site.queue.add("a")
        site.queue.add("a", follows=True)
        site.gates["a"].set()
        await site.until_runs(2)


async def test_a_handler_says_when_to_come_back() -> None:
    async with working() as site:
        site.answers["a"] = 0.03
        site.queue.add("a")
        await site.until_runs(3)
        assert all(
            later - sooner >= 0.03 for sooner, later in zip(site.at, site.at[1:], strict=False)
        )


async def test_an_event_comes_before_a_far_appointment_and_replaces_it() -> None:
    async with working() as site:
        site.answers["a"] = 1000.0
        site.queue.add("a")
        await site.until_runs(1)
        site.queue.add("a")
        await site.until_runs(2)


async def test_the_sooner_of_two_appointments_counts() -> None:
    async with working() as site:
        site.queue.add_after("a", 1000)
        site.queue.add_after("a", 0.01)
        site.queue.add_after("a", 500)
        await site.until_runs(1)
        await idle()
        assert site.runs == ["a"]


async def test_a_failing_key_is_tried_again_with_growing_pauses(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with working(backoff_seconds=0.01) as site:
        site.answers["a"] = RuntimeError("no route to host")
        site.queue.add("a")
        await site.until_runs(4)
        pauses = [later - sooner for sooner, later in zip(site.at, site.at[1:], strict=False)]
        assert all(p >= least for p, least in zip(pauses, (0.01, 0.02, 0.04), strict=True))
        assert "no route to host" in caplog.text
        site.answers["a"] = None
        await site.until(lambda: len(site.runs) >= 5 and not site.under_way)
        await idle()
        site.answers["a"] = RuntimeError("again")
        site.queue.add("a")
        await site.until_runs(7)
        assert site.at[6] - site.at[5] >= 0.01
        assert "again in 0.0 s" in caplog.text, "a success begins the pauses anew"


async def test_pauses_are_capped() -> None:
    async with working(backoff_seconds=0.001, backoff_cap_seconds=0.002) as site:
        site.answers["a"] = RuntimeError("still broken")
        site.queue.add("a")
        await site.until_runs(12)


async def test_one_keys_failure_stops_no_other() -> None:
    async with working(workers=1) as site:
        site.answers["bad"] = RuntimeError("broken")
        site.queue.add("bad")
        site.queue.add("good")
        await site.until(lambda: "good" in site.runs)


async def test_a_failing_key_that_is_touched_meanwhile_runs_at_once() -> None:
    async with working(backoff_seconds=1000) as site:
        site.answers["a"] = RuntimeError("broken")
        site.queue.add("a")
        await site.until(lambda: len(site.runs) == 1 and not site.under_way)
        await idle()
        site.queue.add("a")
        await site.until_runs(2)


async def test_keys_are_served_in_the_order_in_which_they_came() -> None:
    async with working(workers=1) as site:
        site.gates["first"] = asyncio.Event()
        site.queue.add("first")
        await site.until_runs(1)
        keys = [str(n) for n in range(20)]
        for key in keys:
            site.queue.add(key)
        site.gates["first"].set()
        await site.until_runs(21)
        assert site.runs == ["first", *keys]


async def test_the_timetable_does_not_grow_with_every_run() -> None:
    """It did: each run of a job with a far deadline left an entry until that deadline."""
    async with working(settle_seconds=0.0) as site:
        site.answers["a"] = 86_400.0
        for n in range(3 * queue_module.SLACK):
            site.queue.add("a")
            await site.until_runs(n + 1)
            await site.until(lambda: not site.under_way)
            await idle()
        assert len(site.queue._timetable) <= queue_module.SLACK + 3


async def test_a_key_that_will_not_come_back_leaves_nothing() -> None:
    async with working() as site:
        site.answers["a"] = RuntimeError("gone")
        site.queue.add("a")
        await site.until(lambda: len(site.runs) == 1 and not site.under_way)
        await idle()
        site.queue.forget("a")
        assert not site.queue._due
        assert not site.queue._failures
        assert not site.queue._ran_at


async def test_a_queue_that_is_stopped_stops_its_handlers() -> None:
    async with working() as site:
        site.gates["a"] = asyncio.Event()
        site.queue.add("a")
        await site.until_runs(1)
    assert site.under_way == 1, "cancelled, not finished"
