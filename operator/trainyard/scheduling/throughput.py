"""The `Throughput` policy: grow while the measured gain pays, shrink where it does not.

Sizes are tried by doubling, so that a growth can pay `minGain` at any size (from 20 workers on,
one more cannot bring 5 %) and 64 workers are six changes away; that is also never more than twice
the largest measured size. Doubling overshoots a knee, so a growth by several workers that paid,
but less than the curve through the smaller sizes predicts for half of them, is followed by trying
the middle: each size is tried once, and the measurements decide.

A growth is on trial until its cooldown is over. If it has brought `minGain` then, its size is
proven; if it clearly has not, its GPUs are given back; if noise may explain the difference
(`spread.speedup_interval`), it is measured for some minutes more. A proven size is given back only
when it clearly pays less than `minGain`: load beside the job comes and goes, and giving back and
trying again costs more than staying. In the same way a size that was given back is taken again
within the retry pause only on a gain that is clear, and only once.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

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
    GrowthNoLongerPays,
    GrowthPaid,
    GrowthUncertain,
    LargerSizeDidNotPay,
    LargerSizePays,
    LossUncertain,
    MetricsStale,
    NoOtherSizeKnown,
    TooFewSteps,
    WorkersJoining,
)
from trainyard.scheduling.history import (
    HOUR,
    changes_of_last_hour,
    is_proven,
    retry_at,
    times_shrunk,
    trial_ends_at,
)
from trainyard.scheduling.proposal import Proposal, SchedulerSettings
from trainyard.scheduling.request import JobRequest
from trainyard.scheduling.speedup import Curve, measured_curve
from trainyard.scheduling.spread import ASSUMED_ERROR, speedup_interval


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
    sizes = range(job.min_workers, job.max_workers + 1)
    curve = measured_curve(job.profile, sizes=sizes, min_steps=settings.min_steps)
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
        return _give_back(job, curve, paying[-1], now, settings)
    middle = _untried_middle(job, curve, paying, proven=is_proven(job, now, settings))
    if middle is not None:
        return _try_middle(job, curve, paying[-2], middle)
    if current >= job.max_workers:
        return _stay(job, Reason.STEADY, AtMaximum(workers=current))
    return _grow(job, curve, paying, now, settings)


def _give_back(
    job: JobRequest, curve: Curve, size: int, now: datetime, settings: SchedulerSettings
) -> Proposal:
    """Shrink to the size, or stay as long as noise may explain that the present one does not pay.

    A size on trial is measured on until that is clear or the trial is over; where no spread is
    measured the means decide at once.
    """
    current = job.admitted_workers
    proven = is_proven(job, now, settings)
    is_weighed = proven or {size, current} <= curve.spreads.keys()
    gain = _gain(job, curve, size, current, is_weighed=is_weighed)
    is_clear = gain.interval is None or gain.interval[1] < job.min_gain
    if proven:
        if is_clear:
            return _shrink(curve, size, GrowthNoLongerPays(gain=gain))
        return _stay(job, Reason.STEADY, LossUncertain(gain=gain))
    until = trial_ends_at(job, settings)
    if is_clear or now >= until:
        return _shrink(curve, size, GrowthDidNotPay(gain=gain))
    uncertain = GrowthUncertain(gain=gain, until=until)
    return _stay(job, Reason.MEASURING, uncertain, requeue_at=until)


def _shrink(curve: Curve, size: int, basis: Basis) -> Proposal:
    return Proposal(
        workers=size,
        at_least=size,
        reason=Reason.SHRINK_DOES_NOT_PAY,
        basis=basis,
        curve=curve,
    )


def _untried_middle(
    job: JobRequest, curve: Curve, paying: tuple[int, ...], *, proven: bool
) -> int | None:
    """Half of the last growth, if it might do as well as the whole, and was never measured.

    That is, if the whole brought less over what half is expected to bring than `minGain`, by more
    than noise explains; a size on trial without a measured spread is taken at its mean.
    """
    if len(paying) < 2:
        return None
    before, current = paying[-2:]
    middle = (before + current) // 2
    if any(before < size < current for size in curve.sizes()) or middle == before:
        return None
    unmeasured = ASSUMED_ERROR if proven else 0.0
    expected = curve.until(before).estimate(middle, unmeasured=unmeasured)
    measured = curve.estimate(current, unmeasured=unmeasured)
    _, most = speedup_interval(expected, measured)
    return middle if most < job.min_gain else None


def _try_middle(job: JobRequest, curve: Curve, before: int, middle: int) -> Proposal:
    current = job.admitted_workers
    basis = GrowthBelowExpectation(
        before=before,
        after=current,
        measured_speedup=curve.speedup(before, current),
        expected_speedup=curve.until(before).speedup(before, current),
        middle=middle,
    )
    return _shrink(curve, middle, basis)


def _grow(
    job: JobRequest,
    curve: Curve,
    paying: tuple[int, ...],
    now: datetime,
    settings: SchedulerSettings,
) -> Proposal:
    """Grow to a larger size known to pay, else to one twice as large, else stay and say why.

    A larger size that the job shrank from a while ago is taken again at once only if it clearly
    pays, and twice over (`minGain` squared), so that noise around `minGain` does not make the job
    oscillate.
    """
    current = job.admitted_workers
    best = curve.paying(job.min_gain)[-1]
    due_at = retry_at(job, settings)
    is_due = now >= due_at
    if best > current and (is_due or _pays_at_once(job, curve, best, now, settings)):
        pays = LargerSizePays(gain=_gain(job, curve, current, best))
        return _grow_to(job, curve, best, Reason.GROW_PAYS, pays)
    larger = min((size for size in curve.sizes() if size > current), default=None)
    if larger is not None and not is_due:
        gain = _gain(job, curve, current, larger)
        did_not_pay = LargerSizeDidNotPay(gain=gain, retry_at=due_at)
        return _stay(job, Reason.STEADY, did_not_pay, requeue_at=due_at)
    target = min(2 * current, job.max_workers)
    if larger is not None and larger / current >= job.min_gain:
        target = min(target, larger)
    known = curve.until(current)
    if len(paying) < 2:
        unknown = NoOtherSizeKnown(workers=current)
        return _grow_to(job, known, target, Reason.GROW_TO_MEASURE, unknown)
    paid = GrowthPaid(gain=_gain(job, curve, paying[-2], current))
    return _grow_to(job, known, target, Reason.GROW_PAYS, paid)


def _pays_at_once(
    job: JobRequest, curve: Curve, size: int, now: datetime, settings: SchedulerSettings
) -> bool:
    """Whether a larger size need not wait for the retry pause, which ends the second return."""
    recent = [moment for moment in times_shrunk(job) if now - moment < settings.retry_after]
    gain = _gain(job, curve, job.admitted_workers, size, is_weighed=True)
    is_clear = gain.interval is not None and gain.interval[0] >= job.min_gain
    return len(recent) < 2 and is_clear and gain.after_speed / gain.before_speed >= job.min_gain**2


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
    recent = changes_of_last_hour(job, now)
    if len(recent) < job.max_changes_per_hour:
        return proposal
    limited = ChangeLimitReached(
        pending=proposal.basis, changes=len(recent), limit=job.max_changes_per_hour
    )
    moments = [stale_at]
    if job.max_changes_per_hour > 0:
        moments.append(recent[-job.max_changes_per_hour] + HOUR)
    return _stay(job, Reason.CHANGE_LIMIT, limited, requeue_at=min(moments))


def _stay(
    job: JobRequest, reason: Reason, basis: Basis, *, requeue_at: datetime | None = None
) -> Proposal:
    current = job.admitted_workers
    return Proposal(
        workers=current, at_least=current, reason=reason, basis=basis, requeue_at=requeue_at
    )


def _gain(
    job: JobRequest, curve: Curve, before: int, after: int, *, is_weighed: bool = False
) -> Gain:
    """The gain between two measured sizes, with its interval where noise is weighed."""
    slow, fast = (curve.estimate(size, unmeasured=ASSUMED_ERROR) for size in (before, after))
    return Gain(
        before=before,
        after=after,
        before_speed=slow.speed,
        after_speed=fast.speed,
        before_error=slow.error * slow.speed if before in curve.spreads else None,
        after_error=fast.error * fast.speed if after in curve.spreads else None,
        min_gain=job.min_gain,
        interval=speedup_interval(slow, fast) if is_weighed else None,
    )
