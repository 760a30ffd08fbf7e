"""The work queue: keys wait once, by priority, are debounced under load, and back off."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from trainyard.reconcile.queue import (
    HIGH_PER_NORMAL,
    MAX_STALE_DELAYS,
    QueuePriority,
    WorkQueue,
)

HIGH = QueuePriority.HIGH


class Recorder:
    """A queue whose handler records its runs and, where a key has a gate, waits for it."""

    def __init__(self, **settings: Any) -> None:
        self.runs: list[str] = []
        self.at: list[float] = []
        self.running = 0
        self.most_running = 0
        self.results: dict[str, float | Exception | None] = {}
        self.gates: dict[str, asyncio.Event] = {}
        self._changed = asyncio.Condition()
        self.queue: WorkQueue[str] = WorkQueue("test", self._handle, **settings)

    async def _handle(self, key: str) -> float | None:
        self.runs.append(key)
        self.at.append(asyncio.get_running_loop().time())
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        await self._notify()
        if gate := self.gates.get(key):
            await gate.wait()
        self.running -= 1
        await self._notify()
        result = self.results.get(key)
        if isinstance(result, Exception):
            raise result
        return result

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(5), self._changed:
            await self._changed.wait_for(holds)

    async def until_runs(self, number: int) -> None:
        await self.until(lambda: len(self.runs) >= number)


@contextlib.asynccontextmanager
async def running_queue(**settings: Any) -> AsyncIterator[Recorder]:
    recorder = Recorder(**settings)
    task = asyncio.create_task(recorder.queue.run())
    try:
        yield recorder
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def idle() -> None:
    """Let every task that can go on do so."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_the_first_event_of_an_idle_key_is_handled_immediately() -> None:
    async with running_queue(debounce_seconds=1000) as recorder:
        recorder.queue.add("a")
        await recorder.until_runs(1)


async def test_a_key_waits_at_most_once() -> None:
    async with running_queue(workers=1) as recorder:
        recorder.gates["a"] = asyncio.Event()
        recorder.queue.add("a")
        await recorder.until_runs(1)
        for _ in range(5):
            recorder.queue.add("b")
        assert recorder.queue.depth == 2
        recorder.gates["a"].set()
        await recorder.until_runs(2)
        await idle()
        assert recorder.runs == ["a", "b"]
        assert recorder.queue.depth == 0


async def test_a_key_that_is_added_while_it_runs_runs_once_more() -> None:
    async with running_queue() as recorder:
        recorder.gates["a"] = asyncio.Event()
        recorder.queue.add("a")
        await recorder.until_runs(1)
        for _ in range(5):
            recorder.queue.add("a")
        await idle()
        assert recorder.runs == ["a"], "never twice at a time"
        recorder.gates["a"].set()
        await recorder.until_runs(2)
        await idle()
        assert recorder.runs == ["a", "a"]


async def test_no_more_workers_than_allowed() -> None:
    async with running_queue(workers=3) as recorder:
        for n in range(9):
            recorder.gates[str(n)] = asyncio.Event()
            recorder.queue.add(str(n))
        await recorder.until_runs(3)
        await idle()
        assert (recorder.running, recorder.queue.depth) == (3, 9)
        for gate in recorder.gates.values():
            gate.set()
        await recorder.until(lambda: len(recorder.runs) == 9 and recorder.running == 0)
        assert recorder.most_running == 3


async def test_under_load_high_priority_events_of_one_key_are_debounced() -> None:
    # Long beside any pause of this process between the runs.
    async with running_queue(workers=1, debounce_seconds=0.5) as recorder:
        recorder.queue.add("a")
        await recorder.until(lambda: recorder.runs == ["a"] and not recorder.running)
        recorder.gates["busy"] = asyncio.Event()
        recorder.queue.add("busy")
        await recorder.until_runs(2)
        recorder.queue.add("waits")  # as many runs as there are workers, so close together: load
        for _ in range(5):
            recorder.queue.add("a", priority=HIGH)
        recorder.gates["busy"].set()
        await recorder.until_runs(4)
        assert recorder.runs == ["a", "busy", "waits", "a"]
        assert recorder.at[3] - recorder.at[0] >= 0.5


async def test_neither_priority_starves_the_other() -> None:
    async with running_queue(workers=1, debounce_seconds=0.0) as recorder:
        recorder.gates["first"] = asyncio.Event()
        recorder.queue.add("first")
        await recorder.until_runs(1)
        events = [f"event-{n}" for n in range(HIGH_PER_NORMAL + 2)]
        for key in ("new-1", "new-2", "new-3"):
            recorder.queue.add(key)
        for key in events:
            recorder.queue.add(key, priority=HIGH)
        recorder.gates["first"].set()
        await recorder.until_runs(1 + 3 + len(events))
        ahead, rest = events[:HIGH_PER_NORMAL], events[HIGH_PER_NORMAL:]
        assert recorder.runs == ["first", *ahead, "new-1", *rest, "new-2", "new-3"]


async def test_a_high_priority_event_raises_the_priority_of_a_key_that_waits() -> None:
    async with running_queue(workers=1, debounce_seconds=0.0) as recorder:
        recorder.gates["first"] = asyncio.Event()
        recorder.queue.add("first")
        await recorder.until_runs(1)
        for key in ("new-1", "new-2", "new-3"):
            recorder.queue.add(key)
        for _ in range(2):
            recorder.queue.add("new-2", priority=HIGH)
        assert recorder.queue.depth == 4
        recorder.gates["first"].set()
        await recorder.until_runs(4)
        await idle()
        assert recorder.runs == ["first", "new-2", "new-1", "new-3"], "each once"
        recorder.queue.add("new-2")
        await recorder.until(lambda: len(recorder.runs) == 5 and not recorder.running)
        await idle()
        assert (recorder.runs[-1], recorder.queue.depth) == ("new-2", 0)


async def test_a_key_that_is_added_while_it_runs_goes_ahead_of_normal_ones() -> None:
    """Its pods may run already, and users wait for its status."""
    async with running_queue(workers=1, debounce_seconds=1000) as recorder:
        recorder.gates["a"] = asyncio.Event()
        recorder.queue.add("a")
        await recorder.until_runs(1)
        for key in ("new-1", "new-2"):
            recorder.queue.add(key)
        recorder.queue.add("a")
        recorder.gates["a"].set()
        await recorder.until_runs(4)
        assert recorder.runs == ["a", "a", "new-1", "new-2"]


async def test_normal_priority_is_not_debounced_under_load() -> None:
    async with running_queue(workers=1, debounce_seconds=1000) as recorder:
        recorder.queue.add("a")
        await recorder.until(lambda: recorder.runs == ["a"] and not recorder.running)
        await idle()
        recorder.queue.add("a")
        await recorder.until_runs(2)


async def test_a_key_that_is_added_at_normal_priority_while_it_runs_is_not_debounced() -> None:
    async with running_queue(workers=1, debounce_seconds=1000) as recorder:
        recorder.gates["a"] = asyncio.Event()
        recorder.queue.add("a")
        await recorder.until_runs(1)
        recorder.queue.add("a", priority=HIGH)
        recorder.queue.add("a")
        recorder.queue.add("a", priority=HIGH)
        recorder.gates["a"].set()
        await recorder.until_runs(2)


async def test_a_handler_can_requeue_its_key_after_a_delay() -> None:
    async with running_queue() as recorder:
        recorder.results["a"] = 0.03
        recorder.queue.add("a")
        await recorder.until_runs(3)
        assert all(
            later - sooner >= 0.03
            for sooner, later in zip(recorder.at, recorder.at[1:], strict=False)
        )


async def test_an_event_replaces_a_long_delay() -> None:
    async with running_queue() as recorder:
        recorder.results["a"] = 1000.0
        recorder.queue.add("a")
        await recorder.until_runs(1)
        recorder.queue.add("a")
        await recorder.until_runs(2)


async def test_the_shortest_of_several_delays_counts() -> None:
    async with running_queue() as recorder:
        recorder.queue.add_after("a", 1000)
        recorder.queue.add_after("a", 0.01)
        recorder.queue.add_after("a", 500)
        await recorder.until_runs(1)
        await idle()
        assert recorder.runs == ["a"]


async def test_a_failing_key_is_retried_with_exponential_backoff(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with running_queue(backoff_seconds=0.01) as recorder:
        recorder.results["a"] = RuntimeError("no route to host")
        recorder.queue.add("a")
        await recorder.until_runs(4)
        pauses = [
            later - sooner for sooner, later in zip(recorder.at, recorder.at[1:], strict=False)
        ]
        assert all(p >= least for p, least in zip(pauses, (0.01, 0.02, 0.04), strict=True))
        assert "no route to host" in caplog.text
        recorder.results["a"] = None
        await recorder.until(lambda: len(recorder.runs) >= 5 and not recorder.running)
        await idle()
        caplog.clear()
        recorder.results["a"] = RuntimeError("again")
        recorder.queue.add("a")
        await recorder.until_runs(7)
        assert recorder.at[6] - recorder.at[5] >= 0.01
        assert "retrying in 0.0 s" in caplog.text, "a success resets the backoff"


async def test_the_backoff_is_capped() -> None:
    async with running_queue(backoff_seconds=0.001, backoff_cap_seconds=0.002) as recorder:
        recorder.results["a"] = RuntimeError("still broken")
        recorder.queue.add("a")
        await recorder.until_runs(12)


async def test_one_keys_failure_stops_no_other() -> None:
    async with running_queue(workers=1) as recorder:
        recorder.results["bad"] = RuntimeError("broken")
        recorder.queue.add("bad")
        recorder.queue.add("good")
        await recorder.until(lambda: "good" in recorder.runs)


async def test_a_failing_key_that_is_added_during_its_backoff_runs_at_once() -> None:
    async with running_queue(backoff_seconds=1000) as recorder:
        recorder.results["a"] = RuntimeError("broken")
        recorder.queue.add("a")
        await recorder.until(lambda: len(recorder.runs) == 1 and not recorder.running)
        await idle()
        recorder.queue.add("a")
        await recorder.until_runs(2)


async def test_keys_of_one_priority_are_handled_in_order() -> None:
    async with running_queue(workers=1) as recorder:
        recorder.gates["first"] = asyncio.Event()
        recorder.queue.add("first")
        await recorder.until_runs(1)
        keys = [str(n) for n in range(20)]
        for key in keys:
            recorder.queue.add(key)
        recorder.gates["first"].set()
        await recorder.until_runs(21)
        assert recorder.runs == ["first", *keys]


async def test_stale_delays_do_not_pile_up() -> None:
    """They did: each run of a job with a far deadline left an entry until that deadline."""
    async with running_queue(debounce_seconds=0.0) as recorder:
        recorder.results["a"] = 86_400.0
        for n in range(3 * MAX_STALE_DELAYS):
            recorder.queue.add("a")
            await recorder.until_runs(n + 1)
            await recorder.until(lambda: not recorder.running)
            await idle()
        assert len(recorder.queue._delays) <= MAX_STALE_DELAYS + 3


async def test_a_forgotten_key_leaves_nothing() -> None:
    async with running_queue() as recorder:
        recorder.results["a"] = RuntimeError("gone")
        recorder.queue.add("a")
        await recorder.until(lambda: len(recorder.runs) == 1 and not recorder.running)
        await idle()
        recorder.queue.forget("a")
        assert not recorder.queue._due
        assert not recorder.queue._failures
        assert not recorder.queue._started_at


async def test_a_queue_that_is_stopped_stops_its_handlers() -> None:
    async with running_queue() as recorder:
        recorder.gates["a"] = asyncio.Event()
        recorder.queue.add("a")
        await recorder.until_runs(1)
    assert recorder.running == 1, "cancelled, not finished"


async def test_one_group_never_occupies_all_workers() -> None:
    """Behind a slow webhook each reconcile of a namespace takes as long as that."""
    async with running_queue(workers=4, group=lambda key: key[0]) as recorder:
        slow = [f"s{n}" for n in range(10)]
        recorder.gates = {key: asyncio.Event() for key in slow}
        for key in (*slow, "h0"):
            recorder.queue.add(key)
        await recorder.until_runs(3)
        await idle()
        assert recorder.runs == ["s0", "h0", "s1"]
        recorder.gates["s0"].set()
        await recorder.until_runs(4)
        assert recorder.runs[-1] == "s2"
        for gate in recorder.gates.values():
            gate.set()
        await recorder.until_runs(11)
        await idle()
        assert recorder.queue.depth == 0


async def test_groups_take_turns_within_a_priority() -> None:
    async with running_queue(workers=1, group=lambda key: key[0]) as recorder:
        for key in ("a1", "a2", "a3", "b1", "b2"):
            recorder.queue.add(key)
        recorder.queue.add("a4", priority=HIGH)
        await recorder.until_runs(6)
        assert recorder.runs == ["a4", "a1", "b1", "a2", "b2", "a3"]
