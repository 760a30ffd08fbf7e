"""Measures a worker's training and reports it to the coordinator, about once a second."""

from __future__ import annotations

import logging
import math
import time
from concurrent.futures import Future
from dataclasses import asdict
from typing import Any, Final

from trainyard_trainer.elastic.engine import ElasticReplicaGroup
from trainyard_trainer.membership.messages import (
    ConfigurationThroughput,
    ProgressReport,
    RescaleCost,
)
from trainyard_trainer.membership.views import View
from trainyard_trainer.training.replica import Replica
from trainyard_trainer.training.throughput import Configuration, Meter

log = logging.getLogger(__name__)

REPORT_SECONDS: Final = 1.0
SNAPSHOT_RETRY_SECONDS: Final = (10.0, 600.0)
"""The first and the longest pause after a snapshot that was not stored: each stalls training."""
HISTORY: Final = 1000
"""View changes kept in the state, and so in result.json."""


class Reporter:
    """Observes the training loop of one worker."""

    def __init__(self, peers: ElasticReplicaGroup, started: float) -> None:
        """`started` is when the process began, on `time.monotonic`'s clock."""
        self._peers, self._session, self._started = peers, peers.session, started
        self._meter = Meter()
        self._view: View | None = None
        self._latest_commit: float | None = None
        self._reported = 0.0
        self._communication = 0.0
        self._samples = 0
        self._upload: Future[bool] | None = None
        """Of the snapshot in flight."""
        self._next_upload = 0.0
        """Not before this time, on `time.monotonic`'s clock."""
        self._upload_pause = SNAPSHOT_RETRY_SECONDS[0]

    def committed(self, replica: Replica, compute_seconds: float) -> None:
        """Measure the iteration, and send a report when one is due."""
        now, view = time.monotonic(), self._peers.view
        cost = None
        if view is not self._view and view is not None:
            cost = self._rescaled(view, replica, now)
        communicated, self._communication = self._communication, self._peers.process_group.seconds
        samples = replica.samples - self._samples
        self._samples = replica.samples
        if cost is not None or samples == 0:
            self._meter.skip(now)  # An evaluation trains on nothing.
        else:
            self._meter.committed(
                now,
                configuration(view, replica),
                samples=samples,
                compute=compute_seconds,
                communication=self._communication - communicated,
            )
        self._latest_commit = now
        self._upload_snapshot(replica, now)
        if cost is not None or self._is_due(now, replica):
            self._send(replica, cost, now)

    def _upload_snapshot(self, replica: Replica, now: float) -> None:
        """Upload a snapshot that is wanted, one at a time; one that fails again after a pause."""
        if self._upload is not None and self._upload.done():
            is_stored, self._upload = self._upload.result(), None
            if is_stored:
                self._upload_pause = SNAPSHOT_RETRY_SECONDS[0]
            else:
                log.warning("trying again in %.0f s to store a snapshot", self._upload_pause)
                self._session.wants_snapshot = True
                self._next_upload = now + self._upload_pause
                self._upload_pause = min(2 * self._upload_pause, SNAPSHOT_RETRY_SECONDS[1])
        if not self._session.wants_snapshot or self._upload is not None or now < self._next_upload:
            return
        self._session.wants_snapshot = False
        if replica.is_finite:
            self._upload = self._session.connection.upload("snapshot", replica.encode())
        else:
            log.warning("the state is not finite: the last checkpoint is kept instead")

    def _is_due(self, now: float, replica: Replica) -> bool:
        latest = self._session.report
        reported = latest.plan_generation if latest is not None else 0
        is_new_plan = replica.plan is not None and replica.plan.generation > reported
        return replica.is_over or is_new_plan or now - self._reported >= REPORT_SECONDS

    def _rescaled(self, view: View, replica: Replica, now: float) -> RescaleCost | None:
        """The cost of the view change to this worker, after its first iteration in the view."""
        self._communication = 0.0
        stall = joining = 0.0
        if self._view is not None and self._latest_commit is not None:
            stall = max(0.0, now - self._latest_commit - self._meter.normal_step())
        else:
            joining = now - self._started
        self._view = view
        history = replica.notes.setdefault("history", [])
        entry = {"step": replica.step, "at": time.time(), "workers": len(view.members)}
        history.append({**entry, "stall_seconds": round(stall, 4)})
        del history[:-HISTORY]
        if view.initial:
            return None
        return RescaleCost(view=view.id.number, stall_seconds=stall, joining_seconds=joining)

    def _send(self, replica: Replica, cost: RescaleCost | None, now: float) -> None:
        self._reported = now
        throughput = [
            ConfigurationThroughput(**asdict(key), **asdict(figures))
            for key, figures in self._meter.profile.figures().items()
        ]
        report = ProgressReport(**_progress(replica), throughput=throughput, rescale_cost=cost)
        # The coordinator needs one member's progress, and every member's costs.
        only_next_hello = self._peers.rank != 0 and cost is None
        self._session.send_report(report, only_next_hello=only_next_hello)


def configuration(view: View | None, replica: Replica) -> Configuration:
    """The configuration of the latest step."""
    members = view.members if view is not None else ()
    workers = max(1, len(members))
    nodes = max(1, len({member.node for member in members}))
    return Configuration(
        nodes=nodes, workers=workers, local_batch=math.ceil(replica.batch_size / workers)
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _progress(replica: Replica) -> dict[str, Any]:
    plan = replica.plan
    return {
        "step": replica.step,
        "epoch": replica.cursor.epochs,
        "samples": replica.samples,
        "loss": _finite(replica.loss),
        "non_finite_steps": replica.non_finite_steps,
        "metrics": {name: _finite(value) for name, value in replica.metrics.items()},
        "epochs_audited": replica.audit.epochs,
        "samples_wrong": replica.audit.wrong,
        "plan_generation": plan.generation if plan is not None else 0,
        "plan_effective_step": replica.notes.get("effective_step", 0),
    }
