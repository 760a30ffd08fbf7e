"""Waiting until what a test claims is so, with a deadline and the last failure as the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

DEADLINE_SECONDS = 30.0
"""Generous, because only failures take so long: what is so after a second is seen by then."""
POLL_SECONDS = 0.05


async def eventually(check: Callable[[], Awaitable[T]], seconds: float = DEADLINE_SECONDS) -> T:
    """The first result of `check` without an AssertionError; after the deadline its last one."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while True:
        try:
            return await check()
        except AssertionError:
            if loop.time() > deadline:
                raise
        await asyncio.sleep(POLL_SECONDS)


async def stays(check: Callable[[], Awaitable[object]], seconds: float) -> None:
    """Check again and again that what is so remains so for a while."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while loop.time() < end:
        await check()
        await asyncio.sleep(POLL_SECONDS)
