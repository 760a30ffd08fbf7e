"""The scheduler: one pure function over the whole cluster, from demands to decisions with reasons.

It merges what the other rules want under the GPUs that exist, in this order: workers
already admitted keep their GPUs; waiting jobs start in queue order; then running ones grow, first
those that people asked to grow, then whoever gains most per GPU. Nobody is preempted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from heapq import heapify, heappop, heappush
from typing import Final, assert_never

from trainyard.api.cluster import Cluster
from trainyard.api.names import Key
from trainyard.api.reasons import Reason
from trainyard.scheduling.admission import admit, counted, demanded, queue_position, supplied
from trainyard.scheduling.capacity import Ledger, PodShape, entangled
from trainyard.scheduling.gangs import (
    admit_gang,
    bound_parties,
    extend_gang,
    shapes_of,
    unbound_shapes,
)
from trainyard.scheduling.request import Allocation, Decision, JobRequest
from trainyard.scheduling.throughput import Proposal, SchedulerSettings, propose

__all__ = ["SchedulerSettings", "allocate"]

_DEFAULTS: Final = SchedulerSettings()
_MOST_LOOKS: Final = 4
"""Each further look only finds what a tighter packing makes room for; two are the rule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _SchedulingCycle:
    """What one look at the cluster goes by."""

    line: Sequence[JobRequest]
    """All jobs, in queue order."""
    cluster: Cluster
    bound: Mapping[tuple[Key, str], int]
    """Pods that hold a node, by job and resource."""
    bound_parties: Mapping[Key, frozenset[str]]
    """Parties whose pod holds a node, by job."""
    now: datetime
    settings: SchedulerSettings

    def unbound(self, job: JobRequest, workers: int) -> int:
        """How many of the job's workers still need GPUs that no pod of theirs holds."""
        if job.gpus_per_worker == 0:
            return 0
        return max(0, workers - self.bound.get((job.key, job.resource), 0))

    def outstanding(self, job: JobRequest, wish: Proposal) -> Mapping[PodShape, int]:
        """What the job keeps for certain and no pod of its holds yet."""
        if job.gang:
            return unbound_shapes(job, self.bound_parties.get(job.key, frozenset()))
        missing = self.unbound(job, _kept(job, wish))
        return {PodShape.of(job): missing} if missing else {}


def allocate(
    jobs: Sequence[JobRequest],
    cluster: Cluster,
    now: datetime,
    *,
    settings: SchedulerSettings = _DEFAULTS,
) -> Allocation:
    """Decide the number of workers of every job, with a reason; the order of `jobs` is no matter.

    It looks again at its own result until that stays, because reservations of decided workers are
    packed anew by the next call: what would then find room finds it now, so that deciding again
    on the result changes nothing.
    """
    line = sorted(jobs, key=queue_position)
    bound = Counter((key, pod.resource) for key, pod in cluster.holders())
    scene = _SchedulingCycle(
        line=line,
        cluster=cluster,
        bound=bound,
        bound_parties=bound_parties(cluster),
        now=now,
        settings=settings,
    )
    wishes: dict[Key, Proposal] = {}
    decisions = _run_cycle(scene, wishes)
    for _ in range(_MOST_LOOKS - 1):
        followed = [_follow(job, decisions[job.key], now) for job in scene.line]
        if all(new is old for new, old in zip(followed, scene.line, strict=True)):
            break
        for new, old in zip(followed, scene.line, strict=True):
            if new is not old:
                wishes.pop(new.key, None)
        scene = replace(scene, line=followed)
        decisions = _newest(line, decisions, _run_cycle(scene, wishes))
    return decisions


def _run_cycle(scene: _SchedulingCycle, wishes: dict[Key, Proposal]) -> dict[Key, Decision]:
    """Decide once; `wishes` holds those of jobs that an earlier look left alone, and is filled."""
    ledger = Ledger(scene.cluster)
    admitted = [job for job in scene.line if job.admitted_workers > 0]
    for job in admitted:
        if job.key not in wishes:
            wishes[job.key] = _desired(job, scene, ledger)
    _reserve(scene, wishes, ledger)
    decisions = {
        job.key: _admit(job, ledger, scene.now) for job in scene.line if job.admitted_workers <= 0
    }
    decisions |= {job.key: extend_gang(job, ledger) for job in admitted if job.gang}
    granted = _grow(admitted, wishes, ledger)
    for job in admitted:
        if job.gang:
            continue
        decisions[job.key] = _decision(job, wishes[job.key], granted.get(job.key, 0), ledger)
    return decisions


def _admit(job: JobRequest, ledger: Ledger, now: datetime) -> Decision:
    return admit_gang(job, ledger, now) if job.gang else admit(job, ledger, now)


def _follow(job: JobRequest, decision: Decision, now: datetime) -> JobRequest:
    """The job once the decision is in force."""
    if decision.workers == job.admitted_workers:
        return job
    return replace(
        job,
        admitted_workers=decision.workers,
        admitted_parties=decision.parties,
        admitted_at=job.admitted_at or now,
        decided_at=now,
        is_running=False,
    )


def _newest(
    line: Sequence[JobRequest], first: Mapping[Key, Decision], second: Mapping[Key, Decision]
) -> dict[Key, Decision]:
    """The second look, but changes that it only confirms keep the first one's reason."""
    return {
        job.key: first[job.key]
        if second[job.key].workers == first[job.key].workers != job.admitted_workers
        else second[job.key]
        for job in line
    }


# --- What each admitted job wants ---


def _desired(job: JobRequest, scene: _SchedulingCycle, ledger: Ledger) -> Proposal:
    if job.gang:  # parties are who they are: there is no other size to wish for
        here = job.admitted_workers
        return Proposal(workers=here, at_least=here, reason=Reason.STEADY, explanation="")
    wish = _preference(job, scene)
    if wish.workers >= job.admitted_workers:
        return _cut_to_what_exists(job, scene, ledger) or wish
    return wish


def _preference(job: JobRequest, scene: _SchedulingCycle) -> Proposal:
    """What the job should have by its bounds and its policy, GPUs not counted.

    Bounds and `replicas` are people's words: they hold at once, whatever the mode, the cooldown
    and the metrics say.
    """
    here = job.admitted_workers
    bounded = max(job.min_workers, min(here, job.max_workers))
    if bounded != here:
        bounds = f"min is {job.min_workers} and max {job.max_workers}"
        return _order(job, bounded, Reason.BOUNDS_CHANGED, bounds)
    match job.policy:
        case "Manual":
            return _requested(job)
        case "Throughput" if job.mode == "Recommend" and _target(job) != here:
            return _requested(job)  # what is only recommended, people carry out themselves
        case "Throughput":
            return propose(job, scene.now, scene.settings)
        case "Goodput":
            because = "policy Goodput is not available in this version"
            return Proposal(workers=here, at_least=here, reason=Reason.STEADY, explanation=because)
        case _:
            assert_never(job.policy)


def _target(job: JobRequest) -> int:
    return max(job.min_workers, min(job.start_workers, job.max_workers))


def _requested(job: JobRequest) -> Proposal:
    target = _target(job)
    reason = Reason.STEADY if target == job.admitted_workers else Reason.REQUESTED
    return _order(job, target, reason, f"workers.replicas asks for {target}")


def _order(job: JobRequest, workers: int, reason: Reason, because: str) -> Proposal:
    at_least = min(workers, job.admitted_workers + 1)
    return Proposal(
        workers=workers, at_least=at_least, reason=reason, explanation=because, is_order=True
    )


def _cut_to_what_exists(
    job: JobRequest, scene: _SchedulingCycle, ledger: Ledger
) -> Proposal | None:
    """Give up workers that find no room even if this job had all free GPUs to itself.

    By then their nodes are lost or taken by strangers. A fresh decision has `unbound_grace` to
    find room; a node that dies under an old one shrinks the job at once, as its survivors train
    on anyway. Below its minimum a job is never cut: it waits, and what it could use is kept.
    """
    here = job.admitted_workers
    unbound = scene.unbound(job, here)
    if (
        not unbound
        or (room := ledger.slots(PodShape.of(job))) >= unbound
        or here <= job.min_workers
    ):
        return None
    fits = max(job.min_workers, here - unbound + room)
    because = f"{unbound - room} of {counted(here, 'worker')} find no free GPUs any more"
    decided_at = job.decided_at or job.admitted_at
    give_up_at = decided_at + scene.settings.unbound_grace if decided_at else scene.now
    if scene.now >= give_up_at:
        return _order(job, fits, Reason.SHRINK_NODES_LOST, because)
    because = f"{because}, given up at {give_up_at:%H:%M:%S}"
    return replace(
        _order(job, here, Reason.NO_FREE_GPUS, because), at_least=here, requeue_at=give_up_at
    )


# --- GPUs: first kept, then for the queue (admission.admit), then for growth ---


def _reserve(scene: _SchedulingCycle, wishes: Mapping[Key, Proposal], ledger: Ledger) -> None:
    """Set GPUs aside for admitted workers that no node holds yet, in queue order.

    They go where no waiting job could go, if they can. When they do not all fit, every node that
    those could use which compete with the missing ones is claimed: the missing ones come before
    newcomers, and newcomers must not slip in where kube-scheduler may still put the others.
    """
    outstanding = [
        (shape, missing)
        for job in scene.line
        if job.key in wishes
        for shape, missing in scene.outstanding(job, wishes[job.key]).items()
    ]
    if not outstanding:
        return
    wanted = _wanted_by_waiting(scene, ledger)
    short = []
    for shape, missing in outstanding:
        placed = ledger.take(shape, missing, avoid=wanted.get(shape.resource, frozenset()))
        placed += ledger.take(shape, missing - placed)
        if placed < missing:
            short.append(shape)
    competing = entangled(short, (shape for shape, _ in outstanding), ledger) if short else ()
    for shape, _ in outstanding:
        if shape in competing:
            ledger.claim(shape)


def _kept(job: JobRequest, wish: Proposal) -> int:
    """The workers that the job keeps for certain."""
    is_carried_out = wish.is_order or job.mode == "Apply"
    return min(job.admitted_workers, wish.workers) if is_carried_out else job.admitted_workers


def _wanted_by_waiting(scene: _SchedulingCycle, ledger: Ledger) -> dict[str, frozenset[str]]:
    waiting = (job for job in scene.line if job.admitted_workers <= 0)
    wanted: dict[str, frozenset[str]] = {}
    for shape in {shape for job in waiting for shape in _shapes(job)}:
        usable = wanted.get(shape.resource, frozenset()) | ledger.ground(shape).usable
        wanted[shape.resource] = usable
    return wanted


def _shapes(job: JobRequest) -> Iterable[PodShape]:
    if job.gang:
        return shapes_of(job.gang)
    return (PodShape.of(job),) if job.gpus_per_worker > 0 else ()


def _grow(
    admitted: Sequence[JobRequest], wishes: Mapping[Key, Proposal], ledger: Ledger
) -> dict[Key, int]:
    """How many more workers each growing job gets: people's requests first, then policies'.

    Recommendations are counted last, each against all that is left, and take nothing.
    """
    growing = [job for job in admitted if wishes[job.key].workers > job.admitted_workers]
    ordered = [job for job in growing if wishes[job.key].is_order]
    granted = {job.key: _take(job, _growth(job, wishes), ledger) for job in ordered}
    applied = [job for job in growing if job.mode == "Apply" and job.key not in granted]
    granted |= _compete(applied, wishes, ledger)
    for job in growing:
        if job.key not in granted:
            fits = min(_growth(job, wishes), _room(job, ledger))
            granted[job.key] = fits if fits >= _least(job, wishes) else 0
    return granted


def _compete(
    jobs: Sequence[JobRequest], wishes: Mapping[Key, Proposal], ledger: Ledger
) -> dict[Key, int]:
    """Hand out GPUs worker by worker, each to the job that it speeds up most per GPU.

    Speed-ups are over the job's present speed, so that jobs with samples of different sizes
    compare. Ties go to the job that is first in the queue. A job's first step is its smallest
    growth worth while, taken whole or not at all.
    """
    granted = {job.key: 0 for job in jobs}
    offers = [_offer(job, wishes[job.key], 0, place) for place, job in enumerate(jobs)]
    heapify(offers)
    while offers:
        _, place, step = heappop(offers)
        job = jobs[place]
        if _room(job, ledger) < step:
            continue
        _take(job, step, ledger)
        granted[job.key] += step
        if granted[job.key] < _growth(job, wishes):
            heappush(offers, _offer(job, wishes[job.key], granted[job.key], place))
    return granted


def _offer(job: JobRequest, wish: Proposal, granted: int, place: int) -> tuple[float, int, int]:
    """A heap entry, best first: minus the speed-up per GPU, the place in the queue, the workers."""
    here, now_at = job.admitted_workers, job.admitted_workers + granted
    step = 1 if granted else wish.at_least - here
    if wish.curve is None or job.gpus_per_worker == 0:
        return 0.0, place, step
    gain = wish.curve.speedup(here, now_at + step) - wish.curve.speedup(here, now_at)
    return -gain / (step * job.gpus_per_worker), place, step


def _growth(job: JobRequest, wishes: Mapping[Key, Proposal]) -> int:
    return wishes[job.key].workers - job.admitted_workers


def _least(job: JobRequest, wishes: Mapping[Key, Proposal]) -> int:
    return wishes[job.key].at_least - job.admitted_workers


def _room(job: JobRequest, ledger: Ledger) -> int:
    """How many more workers of the job fit; GPU-less ones always do."""
    if job.gpus_per_worker == 0:
        return job.max_workers
    return ledger.slots(PodShape.of(job))


def _take(job: JobRequest, workers: int, ledger: Ledger) -> int:
    return ledger.take(PodShape.of(job), workers) if job.gpus_per_worker else workers


# --- The answer ---


def _decision(job: JobRequest, wish: Proposal, granted: int, ledger: Ledger) -> Decision:
    here = job.admitted_workers
    chosen = wish.workers if wish.workers <= here else here + granted
    if chosen == here:
        return _stays(job, wish, ledger)
    gain = wish.curve.speedup(here, chosen) if wish.curve else None
    is_carried_out = wish.is_order or job.mode == "Apply"
    return Decision(
        workers=chosen if is_carried_out else here,
        recommended=chosen,
        reason=wish.reason,
        message=_story(job, wish, chosen, gain, ledger),
        expected_speedup=gain,
        requeue_at=wish.requeue_at,
    )


def _stays(job: JobRequest, wish: Proposal, ledger: Ledger) -> Decision:
    here = job.admitted_workers
    is_refused = wish.workers > here
    message = wish.explanation
    if is_refused:
        missing = demanded(job, (wish.workers if wish.is_order else wish.at_least) - here)
        message = f"{message}; to grow it needs {missing}; {supplied(PodShape.of(job), ledger)}"
    return Decision(
        workers=here,
        recommended=here,
        reason=Reason.NO_FREE_GPUS if is_refused else wish.reason,
        message=f"stays at {here}: {message}",
        requeue_at=wish.requeue_at,
    )


def _story(job: JobRequest, wish: Proposal, chosen: int, gain: float | None, ledger: Ledger) -> str:
    """One sentence: why, what happens, and what it should bring."""
    here = job.admitted_workers
    is_advice = not wish.is_order and job.mode == "Recommend"
    verb = ("would be " if is_advice else "") + ("growing" if chosen > here else "shrinking")
    free = f" and {demanded(job, chosen - here)} fit" if chosen > here else ""
    expected = f", expected {gain:.2f}×" if gain is not None else ""
    missing = ""
    if chosen < wish.workers:
        more = demanded(job, wish.workers - chosen)
        missing = f"; {more} short of {wish.workers}, {supplied(PodShape.of(job), ledger)}"
    return f"{wish.explanation}{free}: {verb} {here}→{chosen}{expected}{missing}"
