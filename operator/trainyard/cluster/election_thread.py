"""Leader election on a thread of its own: whatever else the process does, the Lease is renewed.

The loop of the controller may be busy for longer than a renew deadline. A leader that cannot renew
stops acting, its successor meets the same work, and nobody acts any more.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Self

from trainyard.cluster.client import KubeClient
from trainyard.cluster.lease import Election
from trainyard.cluster.threads import LoopThread


class ElectionThread:
    """An election and its client, on their thread; to be used from the loop that enters it.

    The moment until which this process leads is one number, which any thread may read.
    """

    def __init__(self, election: Election, client: KubeClient) -> None:
        """`client` is the election's own, and not opened yet."""
        self._election, self._client = election, client
        self._thread = LoopThread("election")
        self._stack = contextlib.AsyncExitStack()
        self._part: asyncio.Task[None] | None = None
        """On the election's loop."""
        self.elected = asyncio.Event()
        """Set when this process has become the leader; it exits when it loses leadership."""

    @property
    def is_leader(self) -> bool:
        """Whether this process is the leader now, by its own clock."""
        return self._election.is_leader

    @property
    def fencing_token(self) -> int:
        """Higher than that of all previous leaders; 0 before this process is elected."""
        return self._election.fencing_token

    def check(self) -> None:
        """Raise LeadershipLost unless this process is the leader; called right before it acts."""
        self._election.check()

    async def __aenter__(self) -> Self:
        self._stack.enter_context(self._thread)
        await self._thread.run(self._client.__aenter__())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._thread.run(self._leave())
        await self._stack.aclose()

    async def run(self) -> None:
        """Acquire the Lease, then renew it; raises LeadershipLost when that fails for too long."""
        await self._thread.run(self._take_part(asyncio.get_running_loop()))

    async def confirm(self) -> None:
        """Read the Lease to see if it is still ours; raises LeadershipLost or ApiError."""
        await self._thread.run(self._election.confirm())

    async def _take_part(self, caller: asyncio.AbstractEventLoop) -> None:
        async def forward() -> None:
            await self._election.elected.wait()
            caller.call_soon_threadsafe(self.elected.set)

        self._part = asyncio.current_task()
        forwarding = asyncio.create_task(forward())
        try:
            await self._election.run()
        finally:
            forwarding.cancel()

    async def _leave(self) -> None:
        """Release the Lease, once no renewal is under way any more."""
        if self._part is not None and not self._part.done():
            self._part.cancel()
            await asyncio.wait({self._part})
        await self._election.release()
        await self._client.__aexit__(None, None, None)
