"""PURE: the pods that are wanted × the pods that are there → what to create and delete.

Applied again and again it converges from any state, because each answer depends on the present
alone: a wanted place without a live pod gets one under a name that nobody has, whatever else is in
its way is deleted by uid.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from trainyard.api.names import MemberId
from trainyard.api.pods import Pod
from trainyard.api.podset import JobPods
from trainyard.lifecycle.desired import DesiredPods, earliest
from trainyard.lifecycle.failures import is_failure
from trainyard_trainer.contract.env import Role

TERM_PAUSE = timedelta(milliseconds=200)
"""The status is on its way; the reconcile that writes it has no event of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PodToCreate:
    """A pod to create: its place, and the attempt that makes its name new."""

    role: Role
    member: MemberId
    """A worker's index or a party's name; 0 for the coordinator."""
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PodActions:
    """What to do now, and when to look again if nothing else happens."""

    create: tuple[PodToCreate, ...] = ()
    delete: tuple[Pod, ...] = ()
    requeue_at: datetime | None = None


def pod_actions(
    wish: DesiredPods, roster: JobPods, recorded: frozenset[str], term: int, now: datetime
) -> PodActions:
    """The steps from `roster` towards `wish`.

    `recorded` are the uids of failures that the status holds: only then may a failed pod go, so
    that no failure is forgotten by a crash between seeing and counting it. `term` is the highest
    term that the status holds, so that a new coordinator fences all before it: one of a higher
    term stays until the status has that, for else its successor would begin the same term again.
    """
    missing = _missing(wish, roster, term)
    # Nothing is created while a failure's pause lasts: once a failed pod is removed, its
    # replacement looks like any other.
    is_early = wish.replace_at is not None and now < wish.replace_at
    gone = (*_unwanted(wish, roster), *_done(wish, roster, recorded))
    delete = tuple(p for p in gone if p.role != Role.COORDINATOR or p.attempt <= term)
    return PodActions(
        create=() if is_early else tuple(missing),
        delete=delete,
        requeue_at=earliest(
            wish.replace_at if is_early and missing else None,
            now + TERM_PAUSE if len(delete) < len(gone) else None,
        ),
    )


def _missing(wish: DesiredPods, roster: JobPods, term: int) -> list[PodToCreate]:
    slots = []
    if wish.coordinator and roster.coordinator is None:
        attempt = max(term, roster.term) + 1
        slots.append(PodToCreate(role=Role.COORDINATOR, member=0, attempt=attempt))
    role = Role.PARTY if wish.parties else Role.WORKER
    for member in wish.members:
        if member not in roster.members:
            attempt = roster.attempts.get((role, member), 0) + 1
            slots.append(PodToCreate(role=role, member=member, attempt=attempt))
    return slots


def _unwanted(wish: DesiredPods, roster: JobPods) -> list[Pod]:
    """Live pods beyond the wish; the highest indices go first by construction."""
    extra = list(roster.surplus)
    if wish.keeps_live:
        return extra
    extra += [pod for member, pod in roster.members.items() if member not in wish.members]
    if roster.coordinator is not None and not wish.coordinator:
        extra.append(roster.coordinator)
    return extra


def _done(wish: DesiredPods, roster: JobPods, recorded: frozenset[str]) -> list[Pod]:
    """Finished pods whose end is known; they hold nothing but their names and logs.

    One stays until its place is taken again: its attempt is what makes the next name new.
    """
    return [
        pod
        for pod in roster.finished
        if not pod.is_deleting
        and (not wish.keeps_finished or _is_spent(pod, wish))
        and (not is_failure(pod) or pod.uid in recorded)
        and not _is_vacant(pod, wish, roster)
    ]


def _is_spent(pod: Pod, wish: DesiredPods) -> bool:
    """Whether it goes though finished pods stay: a coordinator may fail again and again meanwhile.

    Failures beyond those that a status remembers are counted only once older pods have gone.
    """
    return wish.coordinator and pod.role == Role.COORDINATOR and is_failure(pod)


def _is_vacant(pod: Pod, wish: DesiredPods, roster: JobPods) -> bool:
    """Whether the pod's place is wanted and nobody is there."""
    if pod.role == Role.COORDINATOR:
        return wish.coordinator and roster.coordinator is None
    return pod.member in wish.members and pod.member not in roster.members
