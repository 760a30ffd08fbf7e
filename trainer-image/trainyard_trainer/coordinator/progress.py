"""What the workers have reported of training, for metrics, Plans and the result.

It stands apart from membership: nothing here decides who trains.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from trainyard_trainer.membership.events import View
from trainyard_trainer.transport.messages import Report, Rescale, Speed


@dataclass(slots=True)
class Progress:
    """The newest report, the throughput by configuration, and what rescales have cost."""

    report: Report = field(default_factory=Report)
    speeds: dict[tuple[int, int, int], Speed] = field(default_factory=dict)
    """By (nodes, workers, local batch)."""
    last_step_at: float | None = None
    """Unix time at which a report first had the newest step."""
    rescales: int = 0
    """Completed changes of view."""
    costs: dict[int, list[Rescale]] = field(default_factory=dict)
    """What members have reported of their latest changes, by number of view."""
    digests: dict[str, str] = field(default_factory=dict)
    """Of the final states, by worker."""
    checkpoint_step: int = -1
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by each report; whoever waits clears it first."""

    def take(self, report: Report, ident: str) -> None:  # noqa: ARG002
        """Take a worker's report, unless a later one is known."""
        if report.rescale is not None:
            self._take_rescale(report.rescale)
        for speed in report.speeds:
            key = (speed.nodes, speed.workers, speed.local_batch)
            if key not in self.speeds or self.speeds[key].steps <= speed.steps:
                self.speeds[key] = speed
        if report.step > self.report.step:
            self.last_step_at = time.time()
        if report.step >= self.report.step:
            self.report = report
        self.changed.set()

    def _take_rescale(self, rescale: Rescale) -> None:
        for view in [v for v in self.costs if v < rescale.view]:
            del self.costs[view]
        self.costs.setdefault(rescale.view, []).append(rescale)

    def view_begun(self, view: View) -> None:
        """All members of `view` have begun it; a change, unless it is the first of all."""
        if not view.initial:
            self.rescales += 1

    @property
    def latest_costs(self) -> list[Rescale]:
        """What the members of the latest view have reported of the change to it."""
        return self.costs[max(self.costs)] if self.costs else []

    @property
    def stall_seconds(self) -> float:
        """The longest stall of a survivor in the last change."""
        return max((cost.stall_seconds for cost in self.latest_costs), default=0.0)

    @property
    def cost_seconds(self) -> float:
        """Worker seconds that did not train in the last change, from a joiner's start to steady."""
        return sum(cost.stall_seconds + cost.joining_seconds for cost in self.latest_costs)

    async def effective_step(self, generation: int, timeout: float) -> int | None:
        """The step at which a plan took effect; None when it has not within `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                while self.report.generation < generation:
                    self.changed.clear()
                    await self.changed.wait()
        except TimeoutError:
            return None
        return self.report.effective_step
