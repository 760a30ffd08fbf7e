"""Training progress as the workers report it, for metrics, Plans and the result."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import deque
from dataclasses import dataclass, field

from trainyard_trainer.membership.messages import (
    ConfigurationThroughput,
    ProgressReport,
    RescaleCost,
)
from trainyard_trainer.membership.views import View

RECENT_REPORTS = 33
"""Reports of new steps whose median is the usual step; one pause among them hardly moves it."""


@dataclass(slots=True)
class Progress:
    """The newest report, the throughput by configuration, and what rescales have cost."""

    report: ProgressReport = field(default_factory=ProgressReport)
    throughput: dict[tuple[int, int, int], ConfigurationThroughput] = field(default_factory=dict)
    """By (nodes, workers, local batch)."""
    last_step_at: float | None = None
    """Unix time at which a report first had the newest step."""
    step_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT_REPORTS))
    """Seconds per step between two reports of new steps."""
    rescales: int = 0
    """Completed changes of view."""
    costs: dict[int, list[RescaleCost]] = field(default_factory=dict)
    """What members have reported of the latest view changes, by view number."""
    digests: dict[str, str] = field(default_factory=dict)
    """Of the final states, by worker."""
    checkpoint_step: int = -1
    failed_writes: int = 0
    """Checkpoints and models that were not stored, whatever the cause."""
    consecutive_failed_writes: int = 0
    """Those since the last one that was stored."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by each report; a waiter clears it first."""
    _has_restarted: bool = False
    """The next report may have a lower step than the last one."""

    def record(self, report: ProgressReport) -> None:
        """Record a worker's report; its progress counts unless a later one is known."""
        if report.rescale_cost is not None:
            self._record_cost(report.rescale_cost)
        for measured in report.throughput:
            key = (measured.nodes, measured.workers, measured.local_batch)
            if key not in self.throughput or self.throughput[key].steps <= measured.steps:
                self.throughput[key] = measured
        if self._has_restarted:
            self.last_step_at = time.time()
        elif report.step > self.report.step:
            self._record_step(report.step - self.report.step, time.time())
        if report.step >= self.report.step or self._has_restarted:
            self.report = report
            self._has_restarted = False
        self.changed.set()

    def write_failed(self) -> None:
        """Count a checkpoint or a model that was not stored."""
        self.failed_writes += 1
        self.consecutive_failed_writes += 1

    def _record_step(self, steps: int, now: float) -> None:
        if self.last_step_at is not None and now > self.last_step_at:
            self.step_seconds.append((now - self.last_step_at) / steps)
        self.last_step_at = now

    @property
    def usual_step_seconds(self) -> float | None:
        """The median of the recent steps' durations; None before there are two reports."""
        return statistics.median(self.step_seconds) if self.step_seconds else None

    def _record_cost(self, cost: RescaleCost) -> None:
        for view in [v for v in self.costs if v < cost.view]:
            del self.costs[view]
        self.costs.setdefault(cost.view, []).append(cost)

    def view_entered(self, view: View) -> None:
        """Count a view that all its members have entered as a rescale.

        An initial one starts from a checkpoint or from nothing: the next report then counts,
        whatever its step.
        """
        if view.initial:
            self._has_restarted = True
        else:
            self.rescales += 1

    @property
    def latest_costs(self) -> list[RescaleCost]:
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
                while self.report.plan_generation < generation:
                    self.changed.clear()
                    await self.changed.wait()
        except TimeoutError:
            return None
        return self.report.plan_effective_step
