"""From the scheduler's decisions to `status.scaling`: what was decided, and what it brought.

What holds for both kinds is in `holding`.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import msgspec

from trainyard.api.durations import parse_duration
from trainyard.api.jobs import format_time
from trainyard.api.report import Report
from trainyard.api.spec import Scaling
from trainyard.api.status import Change, Measurement, ScalingStatus
from trainyard.policy.demand import Decision, Reason

HISTORY = 20
PROFILE = 64
SETTLED_STEPS = 5
"""Steps that a throughput needs behind it before a speed-up is called measured."""


def record_decision(
    before: ScalingStatus, decision: Decision, spec: Scaling, now: datetime
) -> ScalingStatus:
    """The status after a decision; a changed number of workers also enters the history."""
    told = msgspec.structs.replace(
        before,
        desired=decision.workers,
        recommended=decision.recommended,
        reason=decision.reason,
        message=decision.message,
    )
    if decision.reason is Reason.START_TIMED_OUT and decision.again_at is not None:
        return msgspec.structs.replace(told, cooldown_until=format_time(decision.again_at))
    if decision.workers == before.desired:
        return told
    expected = None if decision.expected_speedup is None else round(decision.expected_speedup, 3)
    change = Change(
        from_=before.desired,
        to=decision.workers,
        reason=decision.reason,
        decided_at=format_time(now),
        expected_speedup=expected,
    )
    return msgspec.structs.replace(
        told,
        expected_speedup=expected,
        measured_speedup=None,
        decided_at=format_time(now),
        cooldown_until=format_time(now + parse_duration(spec.cooldown)),
        history=[*before.history, change][-HISTORY:],
    )


def record_report(before: ScalingStatus, report: Report) -> ScalingStatus:
    """The status with what was measured: profile, cost of the last rescale, and the speed-up."""
    profile = _merge(before.profile, report.profile)
    history, measured = list(before.history), before.measured_speedup
    if history and history[-1].measured_speedup is None:
        last = history[-1]
        measured = measured_speedup(profile, last.from_, last.to)
        if measured is not None:
            history[-1] = msgspec.structs.replace(last, measured_speedup=measured)
    return msgspec.structs.replace(
        before,
        current=report.active_workers,
        profile=profile,
        history=history,
        measured_speedup=measured,
        stall_seconds=_rounded(report.stall_seconds),
        cost_gpu_seconds=_rounded(report.cost_gpu_seconds),
    )


def measured_speedup(profile: Iterable[Measurement], before: int, after: int) -> float | None:
    """Samples per second after ÷ before; None until both sizes are measured."""
    slow, fast = (_throughput(profile, workers) for workers in (before, after))
    return round(fast / slow, 3) if slow and fast else None


def _throughput(profile: Iterable[Measurement], workers: int) -> float | None:
    rows = [m for m in profile if m.workers == workers and m.steps >= SETTLED_STEPS]
    steps = sum(m.steps for m in rows)
    return sum(m.samples_per_second * m.steps for m in rows) / steps if steps else None


def _merge(old: Iterable[Measurement], new: Iterable[Measurement]) -> list[Measurement]:
    """Newer figures replace older ones of the same configuration, as a restarted coordinator
    knows only what it has seen itself."""
    merged = {(m.nodes, m.workers, m.local_batch): m for m in old}
    for m in new:
        place = (m.nodes, m.workers, m.local_batch)
        if place not in merged or m.steps >= min(SETTLED_STEPS, merged[place].steps):
            merged[place] = msgspec.structs.replace(
                m, samples_per_second=round(m.samples_per_second, 2)
            )
    return sorted(merged.values(), key=lambda m: (m.workers, m.nodes, m.local_batch))[-PROFILE:]


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)
