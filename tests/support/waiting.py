"""Polling of assertions, after Gomega's `Eventually` and `Consistently`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

TIMEOUT_SECONDS = 30.0
"""Generous, because only failures take that long."""
POLL_SECONDS = 0.05


async def eventually(
    check: Callable[[], Awaitable[T]],
    seconds: float = TIMEOUT_SECONDS,
    poll_seconds: float = POLL_SECONDS,
) -> T:
    """The first result of `check` without an AssertionError; raises the last after the timeout."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while True:
        try:
            return await check()
        except AssertionError:
            if loop.time() + poll_seconds > deadline:
                raise
        await asyncio.sleep(poll_seconds)


async def consistently(check: Callable[[], Awaitable[object]], seconds: float) -> None:
    """Repeat `check` for that long; raises its first AssertionError."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while loop.time() < end:
        await check()
        await asyncio.sleep(POLL_SECONDS)
