"""A job that is measured and scaled: the trainer's windows, the status and the policy in a loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from tests.support.requests import NOW, key, shape
from trainyard.api.cluster import Cluster, Node
from trainyard.api.report import CoordinatorReport
from trainyard.api.spec import Scaling
from trainyard.api.status import Measurement, SampleTimes, ScalingStatus
from trainyard.scheduling.allocation import allocate
from trainyard.scheduling.assignment import record_decision, record_report
from trainyard.scheduling.request import JobRequest
from trainyard.scheduling.spread import MIN_BLOCKS
from trainyard_trainer.training.throughput import Configuration, Profile, Window

CLUSTER = Cluster(nodes=(Node(name="n0", allocatable={"cpu": 1_000_000, "pods": 110}),), pods=())
"""Large enough for any size: what decides is the measurements."""
JOIN_SECONDS = 5.0


@dataclass(kw_only=True)
class MeasuredJob:
    """A job of CPU workers from its admission with one worker on."""

    step_seconds: Callable[[int, float], float]
    """Seconds of the next step with so many workers, after so many seconds of the job."""
    samples_per_step: int = 2048
    max_workers: int = 4
    cooldown: timedelta = timedelta(seconds=60)
    interval: timedelta = timedelta(seconds=5)
    """Between two readings of the metrics, each followed by a decision."""
    measures_spread: bool = True
    status: ScalingStatus = field(default_factory=ScalingStatus)
    seconds: float = 0.0
    messages: list[str] = field(default_factory=list)
    """Of the changes."""
    _profile: Profile = field(default_factory=Profile)
    _window: Window = field(default_factory=Window)

    @property
    def sizes(self) -> list[int]:
        """The sizes that the job had, in order, those that left the history included."""
        return [int(message.rsplit("→", 1)[-1].split(",")[0]) for message in self.messages]

    def run(self, duration: timedelta) -> None:
        """Train, measure and decide for so long."""
        until = self.seconds + duration.total_seconds()
        while self.seconds < until:
            self._decide()
            self._train(self.seconds + self.interval.total_seconds())

    def _train(self, until: float) -> None:
        """Take steps until the time, and complete windows of a second and more."""
        workers = self.status.desired
        configuration = Configuration(
            nodes=1, workers=workers, local_batch=self.samples_per_step // workers
        )
        while self.seconds < until:
            seconds = self.step_seconds(workers, self.seconds)
            self.seconds += seconds
            self._window = Window(
                steps=self._window.steps + 1,
                samples=self._window.samples + self.samples_per_step,
                seconds=self._window.seconds + seconds,
            )
            if self._window.seconds >= 1.0:
                self._profile.add(configuration, self._window)
                self._window = Window()

    def _decide(self) -> None:
        now = NOW + timedelta(seconds=self.seconds)
        active = {"active": self.status.desired}
        report = CoordinatorReport(at=now, members=active, profile=self._measurements())
        self.status = record_report(self.status, report)
        request = self._request(now)
        decision = allocate((request,), CLUSTER, now)[request.key]
        before = self.status.desired
        scaling = Scaling(cooldown=f"{self.cooldown.total_seconds():.0f}s")
        self.status = record_decision(self.status, decision, scaling, now)
        if before and self.status.desired != before:
            self.messages.append(decision.message)
            self._window = Window()
            self.seconds += JOIN_SECONDS

    def _measurements(self) -> tuple[Measurement, ...]:
        return tuple(
            Measurement(
                nodes=each.nodes,
                workers=each.workers,
                local_batch=each.local_batch,
                samples_per_second=figures.samples_per_second,
                steps=figures.steps,
                sample_times=SampleTimes(
                    blocks=figures.blocks,
                    mean=figures.sample_seconds,
                    deviation=figures.sample_seconds_deviation,
                )
                if self.measures_spread and figures.blocks >= MIN_BLOCKS
                else None,
            )
            for each, figures in self._profile.figures().items()
        )

    def _request(self, now: datetime) -> JobRequest:
        admitted: dict[str, Any] = {}
        if self.status.desired:
            admitted = {"admitted_at": NOW, "is_running": True, "measured_at": now}
        return JobRequest(
            key=key("a"),
            created_at=NOW,
            shape=shape(gpus=0),
            max_workers=self.max_workers,
            cooldown=self.cooldown,
            max_changes_per_hour=30,
            admitted_workers=self.status.desired,
            decision_time=self.status.decision_time,
            proven_workers=self.status.proven,
            profile=tuple(self.status.profile),
            history=tuple(self.status.history),
            **admitted,
        )
