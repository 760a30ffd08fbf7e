"""What a worker tells its coordinator of its training, about once a second.

It stands apart from the crew, which decides with whom to train and not how that went.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from typing import Any, Final

from trainyard_trainer.elastic.engine import ElasticReplicaGroup
from trainyard_trainer.membership.events import View
from trainyard_trainer.training.replica import Replica
from trainyard_trainer.training.throughput import Configuration, Meter
from trainyard_trainer.transport.messages import Report, Rescale, Speed

REPORT_SECONDS: Final = 1.0
HISTORY: Final = 1000
"""Changes of view that the state, and result.json, remember."""


class Reporter:
    """Observes the loop of a worker in a crew."""

    def __init__(self, crew: ElasticReplicaGroup, started: float) -> None:
        """`started` is when the process began, on `time.monotonic`'s clock."""
        self._crew, self._started = crew, started
        self._meter = Meter()
        self._view: View | None = None
        self._latest_commit: float | None = None
        self._reported = 0.0
        self._communication = 0.0
        self._samples = 0

    def committed(self, replica: Replica, compute_seconds: float) -> None:
        """Measure the turn, and report when it is time to."""
        now, view = time.monotonic(), self._crew.participant.view
        rescale = None
        if view is not self._view and view is not None:
            rescale = self._rescaled(view, replica, now)
        spent, self._communication = self._communication, self._crew.group.seconds
        samples = replica.samples - self._samples
        self._samples = replica.samples
        if rescale is not None or samples == 0:
            self._meter.skip(now)  # an evaluation trains on nothing
        else:
            self._meter.committed(
                now,
                configuration(view, replica),
                samples=samples,
                compute=compute_seconds,
                communication=self._crew.group.seconds - spent,
            )
        self._latest_commit = now
        if self._crew.wants_snapshot:
            self._crew.wants_snapshot = False
            self._crew.link.upload("snapshot", replica.encode())
        if rescale is not None or self._is_due(now, replica):
            self._send(replica, rescale, now)

    def _is_due(self, now: float, replica: Replica) -> bool:
        told = self._crew.report.generation if self._crew.report is not None else 0
        is_new = replica.plan is not None and replica.plan.generation > told
        return replica.is_over or is_new or now - self._reported >= REPORT_SECONDS

    def _rescaled(self, view: View, replica: Replica, now: float) -> Rescale | None:
        """The first turn in a new view: what the change has cost this worker."""
        self._communication = 0.0
        stayed = self._view is not None and self._latest_commit is not None
        stall = joining = 0.0
        if stayed and self._latest_commit is not None:
            stall = max(0.0, now - self._latest_commit - self._meter.normal_step())
        else:
            joining = now - self._started
        self._view = view
        past = replica.notes.setdefault("history", [])
        entry = {"step": replica.step, "at": time.time(), "workers": len(view.members)}
        past.append({**entry, "stall_seconds": round(stall, 4)})
        del past[:-HISTORY]
        if view.initial:
            return None
        return Rescale(view=view.id.number, stall_seconds=stall, joining_seconds=joining)

    def _send(self, replica: Replica, rescale: Rescale | None, now: float) -> None:
        self._reported = now
        speeds = [
            Speed(**asdict(key), **asdict(figures))
            for key, figures in self._meter.profile.figures().items()
        ]
        report = Report(**_state_of(replica), speeds=speeds, rescale=rescale)
        with self._crew.link.changing():
            self._crew.report = report
            if self._crew.group.rank == 0 or rescale is not None:
                self._crew.link.send(report)


def configuration(view: View | None, replica: Replica) -> Configuration:
    """The configuration that the last step was made in."""
    seats = view.members if view is not None else ()
    workers = max(1, len(seats))
    nodes = max(1, len({seat.node for seat in seats}))
    return Configuration(
        nodes=nodes, workers=workers, local_batch=math.ceil(replica.batch_size / workers)
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _state_of(replica: Replica) -> dict[str, Any]:
    plan = replica.plan
    return {
        "step": replica.step,
        "epoch": replica.cursor.epochs,
        "samples": replica.samples,
        "loss": _finite(replica.loss),
        "metrics": {name: _finite(value) for name, value in replica.metrics.items()},
        "audited": replica.audit.epochs,
        "wrong": replica.audit.wrong,
        "generation": plan.generation if plan is not None else 0,
        "effective_step": replica.notes.get("effective_step", 0),
    }
