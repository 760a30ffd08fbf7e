"""The `Throughput` policy: grow while the measured gain pays, shrink where it does not.

Sizes are tried by doubling, so that a growth can pay `minGain` at any size (from 20 workers on,
one more cannot bring 5 %) and 64 workers are six changes away; that is also never more than twice
the largest measured size. Doubling overshoots a knee, so a growth by several workers that paid,
but less than the curve through the smaller sizes predicts for half of them, is followed by trying
the middle: each size is tried once, and the measurements decide.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from trainyard.api.reasons import Reason
from trainyard.scheduling.basis import (
    AtMaximum,
    Basis,
    ChangeLimitReached,
    CoolingDown,
    Gain,
    GainTooSmall,
    GrowthBelowExpectation,
    GrowthDidNotPay,
    GrowthPaid,
    LargerSizeDidNotPay,
    LargerSizePays,
    MetricsStale,
    NoOtherSizeKnown,
    TooFewSteps,
    WorkersJoining,
)
from trainyard.scheduling.proposal import Proposal, SchedulerSettings
from trainyard.scheduling.request import JobRequest
from trainyard.scheduling.speedup import Curve, throughput_by_size

_MAX_DOUBLINGS: Final = 3
"""In the end a size that never pays costs one try every four hours."""
_HOUR: Final = timedelta(hours=1)


def propose(job: JobRequest, now: datetime, settings: SchedulerSettings) -> Proposal:
    """What an admitted job under `Throughput` should have, by its own measurements alone.

    Nothing changes while workers are still joining, or the metrics are stale or too few; a change
    waits for the cooldown and the hourly limit. Expects the size within [min, max].
    """
    current = job.admitted_workers
    if not job.is_running:
        return _stay(job, Reason.MEASURING, WorkersJoining(workers=current))
    if job.measured_at is None or now - job.measured_at >= settings.stale_after:
        age = None if job.measured_at is None else now - job.measured_at
        stale = MetricsStale(age=age, limit=settings.stale_after)
        return _stay(job, Reason.METRICS_STALE, stale)
    stale_at = job.measured_at + settings.stale_after
    points = throughput_by_size(job.profile, min_steps=settings.min_steps)
    points = tuple(point for point in points if job.min_workers <= point[0] <= job.max_workers)
    curve = Curve(points=points)
    if current not in curve.sizes():
        too_few = TooFewSteps(workers=current, min_steps=settings.min_steps)
        return _stay(job, Reason.MEASURING, too_few, requeue_at=stale_at)
    return _rate_limited(job, _unlimited(job, curve, now, settings), now, stale_at)


def _unlimited(
    job: JobRequest, curve: Curve, now: datetime, settings: SchedulerSettings
) -> Proposal:
    """The proposal by the measurements, whenever the job last changed."""
    current = job.admitted_workers
    paying = curve.until(current).paying(job.min_gain)
    if paying[-1] < current:
        return _shrink(job, curve, paying[-1])
    middle = _untried_middle(job, curve, paying)
    if middle is not None:
        return _try_middle(job, curve, paying[-2], middle)
    if current >= job.max_workers:
        return _stay(job, Reason.STEADY, AtMaximum(workers=current))
    return _grow(job, curve, paying, now, settings)


def _shrink(job: JobRequest, curve: Curve, size: int) -> Proposal:
    return Proposal(
        workers=size,
        at_least=size,
        reason=Reason.SHRINK_DOES_NOT_PAY,
        basis=GrowthDidNotPay(gain=_gain(job, curve, size, job.admitted_workers)),
        curve=curve,
    )


def _untried_middle(job: JobRequest, curve: Curve, paying: tuple[int, ...]) -> int | None:
    """Half of the last growth, if it might do as well as the whole, and was never measured."""
    if len(paying) < 2:
        return None
    before, current = paying[-2:]
    middle = (before + current) // 2
    if any(before < size < current for size in curve.sizes()) or middle == before:
        return None
    expected = curve.until(before).speed(middle)
    return middle if curve.speed(current) / expected < job.min_gain else None


def _try_middle(job: JobRequest, curve: Curve, before: int, middle: int) -> Proposal:
    current = job.admitted_workers
    basis = GrowthBelowExpectation(
        before=before,
        after=current,
        measured_speedup=curve.speedup(before, current),
        expected_speedup=curve.until(before).speedup(before, current),
        middle=middle,
    )
    return Proposal(
        workers=middle,
        at_least=middle,
        reason=Reason.SHRINK_DOES_NOT_PAY,
        basis=basis,
        curve=curve,
    )


def _grow(
    job: JobRequest,
    curve: Curve,
    paying: tuple[int, ...],
    now: datetime,
    settings: SchedulerSettings,
) -> Proposal:
    """Grow to a larger size known to pay, else to one twice as large, else stay and say why.

    A larger size that the job shrank from a while ago is taken again at once only if it pays twice
    over (`minGain` squared), so that noise around `minGain` does not make the job oscillate.
    """
    current = job.admitted_workers
    best = curve.paying(job.min_gain)[-1]
    retry_at = _retry_at(job, settings)
    is_due = now >= retry_at
    if best > current and (is_due or curve.speedup(current, best) >= job.min_gain**2):
        pays = LargerSizePays(gain=_gain(job, curve, current, best))
        return _grow_to(job, curve, best, Reason.GROW_PAYS, pays)
    larger = min((size for size in curve.sizes() if size > current), default=None)
    if larger is not None and not is_due:
        gain = _gain(job, curve, current, larger)
        did_not_pay = LargerSizeDidNotPay(gain=gain, retry_at=retry_at)
        return _stay(job, Reason.STEADY, did_not_pay, requeue_at=retry_at)
    target = min(2 * current, job.max_workers)
    if larger is not None and larger / current >= job.min_gain:
        target = min(target, larger)
    known = curve.until(current)
    if len(paying) < 2:
        unknown = NoOtherSizeKnown(workers=current)
        return _grow_to(job, known, target, Reason.GROW_TO_MEASURE, unknown)
    paid = GrowthPaid(gain=_gain(job, curve, paying[-2], current))
    return _grow_to(job, known, target, Reason.GROW_PAYS, paid)


def _grow_to(job: JobRequest, curve: Curve, target: int, reason: Reason, basis: Basis) -> Proposal:
    """Grow to the target or to a smaller size that is expected to pay, else stay."""
    current = job.admitted_workers
    sizes = range(current + 1, target + 1)
    worthwhile = (size for size in sizes if curve.speedup(current, size) >= job.min_gain)
    at_least = next(worthwhile, None)
    if at_least is None:
        expected = curve.speedup(current, target)
        too_small = GainTooSmall(workers=target, expected_speedup=expected, min_gain=job.min_gain)
        return _stay(job, Reason.STEADY, too_small)
    return Proposal(workers=target, at_least=at_least, reason=reason, basis=basis, curve=curve)


def _rate_limited(
    job: JobRequest, proposal: Proposal, now: datetime, stale_at: datetime
) -> Proposal:
    """The proposal, held back by the cooldown and by the changes of the last hour."""
    if proposal.workers == job.admitted_workers:
        return replace(proposal, requeue_at=min(stale_at, proposal.requeue_at or stale_at))
    cool_at = None if job.decision_time is None else job.decision_time + job.cooldown
    if cool_at is not None and now < cool_at:
        cooling = CoolingDown(pending=proposal.basis, until=cool_at)
        return _stay(job, Reason.COOLING_DOWN, cooling, requeue_at=min(cool_at, stale_at))
    recent = _changes_of_last_hour(job, now)
    if len(recent) < job.max_changes_per_hour:
        return proposal
    limited = ChangeLimitReached(
        pending=proposal.basis, changes=len(recent), limit=job.max_changes_per_hour
    )
    moments = [stale_at]
    if job.max_changes_per_hour > 0:
        moments.append(recent[-job.max_changes_per_hour] + _HOUR)
    return _stay(job, Reason.CHANGE_LIMIT, limited, requeue_at=min(moments))


def _changes_of_last_hour(job: JobRequest, now: datetime) -> list[datetime]:
    """When the job was rescaled, oldest first; being admitted is no rescale."""
    rescales = (change for change in job.history if change.from_ > 0 and change.to > 0)
    return sorted(change.decision_time for change in rescales if change.decision_time > now - _HOUR)


def _stay(
    job: JobRequest, reason: Reason, basis: Basis, *, requeue_at: datetime | None = None
) -> Proposal:
    current = job.admitted_workers
    return Proposal(
        workers=current, at_least=current, reason=reason, basis=basis, requeue_at=requeue_at
    )


def _retry_at(job: JobRequest, settings: SchedulerSettings) -> datetime:
    """When a larger size that did not pay may be tried again.

    `retry_after` from when the job last shrank to its present size, doubled for each time before
    that; from its last change if the history does not reach back.
    """
    current = job.admitted_workers
    shrunk = [change.decision_time for change in job.history if change.from_ > current >= change.to]
    since = max(shrunk, default=job.decision_time or job.admitted_at or job.created_at)
    doublings = max(0, min(len(shrunk) - 1, _MAX_DOUBLINGS))
    return since + settings.retry_after * (1 << doublings)


def _gain(job: JobRequest, curve: Curve, before: int, after: int) -> Gain:
    return Gain(
        before=before,
        after=after,
        before_speed=curve.speed(before),
        after_speed=curve.speed(after),
        min_gain=job.min_gain,
    )
