"""The `Throughput` policy: grow while the measured gain pays, give back what does not.

It stands apart from `allocation` because it knows one job and no GPUs: it proposes a size and a
speed-up curve, and `allocation` compares the proposals of all jobs under the GPUs that are free.
A later policy (`Goodput`) brings another curve through the same `Proposal`.

Sizes are tried by doubling, so that a growth can pay `minGain` at any size (from 20 workers on,
one more cannot bring 5 %) and 64 workers are six changes away; that is also never more than twice
the largest size seen. Doubling overshoots a knee, so a growth by several workers that paid, but
less than the curve through the smaller sizes promised for half of them, is followed by trying
the middle: each size is tried once, and the measurements decide.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

from trainyard.api.reasons import Reason
from trainyard.scheduling.request import JobRequest, Throughput

_PLAUSIBLE_SPEED: Final = (1e-6, 1e12)
"""Samples per second that a job may claim; anything else is a broken metric, and is ignored."""
_MOST_STEPS: Final = 10**9
"""Weight limit of one figure: a broken counter must not overflow the mean."""
_MOST_DOUBLINGS: Final = 3
"""A size that never pays costs a try every four hours in the end."""
_HOUR: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerSettings:
    """Numbers that hold for every job of the cluster."""

    stale_after: timedelta = timedelta(seconds=15)
    """Metrics older than three scrape intervals (of 5 s) decide nothing."""
    min_steps: int = 10
    """Steps behind a figure before it counts: the first ones after a change are slow."""
    retry_after: timedelta = timedelta(minutes=30)
    """A growth that did not pay is not tried again before; twice as long after each vain retry."""
    unbound_grace: timedelta = timedelta(seconds=60)
    """How long workers of a fresh decision may find no room before the job shrinks to what fits."""


class SpeedUp(Protocol):
    """What a policy expects of other sizes: all that `allocation` needs to compare jobs."""

    def speedup(self, before: int, after: int) -> float:
        """Speed with `after` workers ÷ speed with `before` workers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """The size that one admitted job should have, as far as it knows; GPUs are not counted yet."""

    workers: int
    """The size wanted; the present one to stay."""
    at_least: int
    """The smallest growth worth its while; fewer free GPUs leave the job as it is."""
    reason: Reason
    explanation: str
    """The figures behind it: a clause that a sentence can go on from."""
    curve: SpeedUp | None = None
    """None where nothing was measured, or where it does not matter."""
    requeue_at: datetime | None = None
    is_order: bool = False
    """People or the cluster want it, not a policy: carried out under `Recommend` too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Speed by number of workers: measured where it was, and between and beyond by Amdahl's law.

    Amdahl: the time per sample is a + b/n, a part that more workers do not shorten and one that
    they share. Between two sizes the line runs through both; beyond the largest it goes on
    through the last two, but never better than linear. With one size only, linear is the bound.
    """

    points: tuple[tuple[int, float], ...]
    """(workers, samples per second), ascending, at least one."""

    def sizes(self) -> tuple[int, ...]:
        """The measured sizes, ascending."""
        return tuple(workers for workers, _ in self.points)

    def until(self, workers: int) -> Curve:
        """The same without sizes above `workers`."""
        return Curve(points=tuple(point for point in self.points if point[0] <= workers))

    def speed(self, workers: int) -> float:
        """Samples per second expected of so many workers."""
        first, last = self.points[0], self.points[-1]
        if workers <= first[0]:
            return first[1] * workers / first[0]
        below = max(point for point in self.points if point[0] <= workers)
        above = min((point for point in self.points if point[0] >= workers), default=None)
        if above is not None:
            return below[1] if below == above else 1 / _seconds(below, above, workers)
        linear = last[0] / (last[1] * workers)
        if len(self.points) == 1:
            return 1 / linear
        return 1 / max(linear, _seconds(self.points[-2], last, workers))

    def speedup(self, before: int, after: int) -> float:
        """Samples per second with `after` workers ÷ with `before` workers."""
        return self.speed(after) / self.speed(before)

    def paying(self, min_gain: float) -> tuple[int, ...]:
        """Of the measured sizes the smallest, and each that paid over the one kept before it."""
        kept = [self.points[0]]
        for point in self.points[1:]:
            if point[1] / kept[-1][1] >= min_gain:
                kept.append(point)
        return tuple(workers for workers, _ in kept)


def measured(profile: Iterable[Throughput], *, min_steps: int) -> tuple[tuple[int, float], ...]:
    """Samples per second by number of workers, ascending: means weighted by steps.

    Configurations of the same size (nodes, local batch) are one figure, as the size is what is
    decided here. Impossible figures, and sizes with fewer than `min_steps` steps, are left out.
    """
    steps: dict[int, int] = {}
    sums: dict[int, float] = {}
    for figure in profile:
        if figure.workers > 0 and figure.steps > 0 and _is_plausible(figure.samples_per_second):
            weight = min(figure.steps, _MOST_STEPS)
            steps[figure.workers] = steps.get(figure.workers, 0) + weight
            speed = weight * figure.samples_per_second
            sums[figure.workers] = sums.get(figure.workers, 0.0) + speed
    return tuple(
        (size, sums[size] / steps[size]) for size in sorted(sums) if steps[size] >= min_steps
    )


def propose(job: JobRequest, now: datetime, settings: SchedulerSettings) -> Proposal:
    """What an admitted job under `Throughput` should have, by its own measurements alone.

    Nothing changes while workers are still joining, the metrics are stale or too few; a wish to
    change waits for the cooldown and the hourly limit. Expects the size within [min, max].
    """
    here = job.admitted_workers
    if not job.is_running:
        return _stay(job, Reason.MEASURING, f"not all {here} workers train together yet")
    if job.measured_at is None or now - job.measured_at >= settings.stale_after:
        return _stay(job, Reason.METRICS_STALE, _age_of_metrics(job, now, settings))
    stale_at = job.measured_at + settings.stale_after
    points = measured(job.profile, min_steps=settings.min_steps)
    points = tuple(point for point in points if job.min_workers <= point[0] <= job.max_workers)
    curve = Curve(points=points)
    if here not in curve.sizes():
        because = f"fewer than {settings.min_steps} steps measured with {_workers(here)}"
        return _stay(job, Reason.MEASURING, because, requeue_at=stale_at)
    return _paced(job, _wish(job, curve, now, settings), now, stale_at)


def _wish(job: JobRequest, curve: Curve, now: datetime, settings: SchedulerSettings) -> Proposal:
    here = job.admitted_workers
    chain = curve.until(here).paying(job.min_gain)
    if chain[-1] < here:
        return _give_back(job, curve, chain[-1])
    middle = _untried_middle(job, curve, chain)
    if middle is not None:
        return _try_fewer(job, curve, chain[-2], middle)
    if here >= job.max_workers:
        return _stay(job, Reason.STEADY, f"{_workers(here)} is the most it may have")
    return _growth(job, curve, chain, now, settings)


def _give_back(job: JobRequest, curve: Curve, to: int) -> Proposal:
    here = job.admitted_workers
    return Proposal(
        workers=to,
        at_least=to,
        reason=Reason.SHRINK_DOES_NOT_PAY,
        explanation=f"{to}→{here} did not pay: {_figures(job, curve, to, here)}",
        curve=curve,
    )


def _untried_middle(job: JobRequest, curve: Curve, chain: tuple[int, ...]) -> int | None:
    """Half of the last growth, if it might do as well as the whole, and was never measured."""
    if len(chain) < 2:
        return None
    before, here = chain[-2:]
    middle = (before + here) // 2
    if any(before < size < here for size in curve.sizes()) or middle == before:
        return None
    promised = curve.until(before).speed(middle)
    return middle if curve.speed(here) / promised < job.min_gain else None


def _try_fewer(job: JobRequest, curve: Curve, before: int, middle: int) -> Proposal:
    here = job.admitted_workers
    promised = curve.until(before).speedup(before, here)
    return Proposal(
        workers=middle,
        at_least=middle,
        reason=Reason.SHRINK_DOES_NOT_PAY,
        explanation=(
            f"{before}→{here} brought {curve.speedup(before, here):.2f}× where {promised:.2f}× "
            f"was expected, so that {middle} may do as well"
        ),
        curve=curve,
    )


def _growth(
    job: JobRequest,
    curve: Curve,
    chain: tuple[int, ...],
    now: datetime,
    settings: SchedulerSettings,
) -> Proposal:
    """Grow to a larger size known to pay, else to one twice as large, else stay and say why.

    A larger size that was left a while ago is taken again at once only if it pays twice over
    (`minGain` squared), so that noise around `minGain` does not make a job go to and fro.
    """
    here = job.admitted_workers
    best = curve.paying(job.min_gain)[-1]
    retry_at = _retry_at(job, settings)
    is_due = now >= retry_at
    if best > here and (is_due or curve.speedup(here, best) >= job.min_gain**2):
        because = f"{best} workers brought {_figures(job, curve, here, best)}"
        return _grow(job, curve, best, Reason.GROW_PAYS, because)
    larger = min((size for size in curve.sizes() if size > here), default=None)
    if larger is not None and not is_due:
        because = f"{here}→{larger} brought {_figures(job, curve, here, larger)}; not again before"
        because = f"{because} {retry_at:%H:%M:%S}"
        return _stay(job, Reason.STEADY, because, requeue_at=retry_at)
    target = min(2 * here, job.max_workers)
    if larger is not None and larger / here >= job.min_gain:
        target = min(target, larger)
    if len(chain) < 2:
        because = f"no size but {_workers(here)} is known to pay"
        return _grow(job, curve.until(here), target, Reason.GROW_TO_MEASURE, because)
    because = f"{chain[-2]}→{here} paid {_figures(job, curve, chain[-2], here)}"
    return _grow(job, curve.until(here), target, Reason.GROW_PAYS, because)


def _grow(job: JobRequest, curve: Curve, target: int, reason: Reason, because: str) -> Proposal:
    here = job.admitted_workers
    worth = (n for n in range(here + 1, target + 1) if curve.speedup(here, n) >= job.min_gain)
    at_least = next(worth, None)
    if at_least is None:
        gain = curve.speedup(here, target)
        because = f"{target} workers are expected to bring {gain:.2f}×, minGain is {job.min_gain:g}"
        return _stay(job, Reason.STEADY, because)
    return Proposal(
        workers=target, at_least=at_least, reason=reason, explanation=because, curve=curve
    )


def _paced(job: JobRequest, wish: Proposal, now: datetime, stale_at: datetime) -> Proposal:
    """The wish, held back by the cooldown and by the changes of the last hour."""
    here = job.admitted_workers
    if wish.workers == here:
        requeue_at = stale_at if wish.requeue_at is None else min(stale_at, wish.requeue_at)
        return _stay(job, wish.reason, wish.explanation, requeue_at=requeue_at)
    cool_at = None if job.decided_at is None else job.decided_at + job.cooldown
    if cool_at is not None and now < cool_at:
        because = f"{wish.explanation}; cooling down until {cool_at:%H:%M:%S}"
        return _stay(job, Reason.COOLING_DOWN, because, requeue_at=min(cool_at, stale_at))
    recent = _changes_of_last_hour(job, now)
    if len(recent) < job.max_changes_per_hour:
        return wish
    because = (
        f"{wish.explanation}; {len(recent)} of {job.max_changes_per_hour} changes an hour made"
    )
    until = [stale_at]
    if job.max_changes_per_hour > 0:
        until.append(recent[-job.max_changes_per_hour] + _HOUR)
    return _stay(job, Reason.CHANGE_LIMIT, because, requeue_at=min(until))


def _changes_of_last_hour(job: JobRequest, now: datetime) -> list[datetime]:
    """When the job was rescaled, oldest first; being admitted is no rescale."""
    changes = (past for past in job.history if past.from_workers > 0 and past.to_workers > 0)
    return sorted(past.decided_at for past in changes if past.decided_at > now - _HOUR)


def _stay(
    job: JobRequest, reason: Reason, because: str, *, requeue_at: datetime | None = None
) -> Proposal:
    here = job.admitted_workers
    return Proposal(
        workers=here, at_least=here, reason=reason, explanation=because, requeue_at=requeue_at
    )


def _retry_at(job: JobRequest, settings: SchedulerSettings) -> datetime:
    """When a larger size that did not pay may be tried again.

    `retry_after` from when the job last came down to its present size, doubled for each time
    before that it came down in vain; from its last change if the history does not reach back.
    """
    here = job.admitted_workers
    left = [past.decided_at for past in job.history if past.from_workers > here >= past.to_workers]
    since = max(left, default=job.decided_at or job.admitted_at or job.created_at)
    doublings = max(0, min(len(left) - 1, _MOST_DOUBLINGS))
    return since + settings.retry_after * (1 << doublings)


def _figures(job: JobRequest, curve: Curve, before: int, after: int) -> str:
    slow, fast = curve.speed(before), curve.speed(after)
    rates = f"{_rounded(slow)}→{_rounded(fast)} samples/s"
    return f"{fast / slow:.2f}× ({rates}, minGain {job.min_gain:g})"


def _rounded(speed: float) -> str:
    return f"{speed:.0f}" if speed >= 100 else f"{speed:.3g}"


def _age_of_metrics(job: JobRequest, now: datetime, settings: SchedulerSettings) -> str:
    if job.measured_at is None:
        return "the coordinator has not been read yet"
    age = (now - job.measured_at).total_seconds()
    limit = settings.stale_after.total_seconds()
    return f"the metrics are {age:.0f} s old, older than {limit:.0f} s"


def _workers(number: int) -> str:
    return "1 worker" if number == 1 else f"{number} workers"


def _is_plausible(speed: float) -> bool:
    return math.isfinite(speed) and _PLAUSIBLE_SPEED[0] <= speed <= _PLAUSIBLE_SPEED[1]


def _seconds(one: tuple[int, float], other: tuple[int, float], workers: int) -> float:
    """Seconds per sample at `workers`, on the line a + b/n through two measured sizes."""
    x, y = 1 / one[0], 1 / one[1]
    slope = (1 / other[1] - y) / (1 / other[0] - x)
    return y + slope * (1 / workers - x)
