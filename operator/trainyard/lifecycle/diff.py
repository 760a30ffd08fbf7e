"""PURE: desired pods × existing pods → the pods to create and to delete.

Repeated, it converges from any state, because each answer depends on the present alone: a desired
member without a live pod gets one under a new name, and every other pod is deleted by uid.
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

TERM_WAIT = timedelta(milliseconds=200)
"""Time for the status that records a term: the reconcile that writes it causes no event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PodToCreate:
    """A pod to create: which member of the job it is, and the attempt that makes its name new."""

    role: Role
    member: MemberId
    """A worker's index or a party's name; 0 for the coordinator."""
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PodActions:
    """What to do now, and when to reconcile again if nothing else happens."""

    create: tuple[PodToCreate, ...] = ()
    delete: tuple[Pod, ...] = ()
    requeue_at: datetime | None = None


def pod_actions(
    desired: DesiredPods, pods: JobPods, recorded: frozenset[str], term: int, now: datetime
) -> PodActions:
    """The actions that lead from the existing to the desired pods.

    `recorded` are the uids of the failures in the status: a failed pod is deleted only once it is
    one of them, so that a crash between observing and recording it loses no failure. `term` is the
    highest term in the status, which a new coordinator's must exceed to fence all before it: a
    coordinator of a higher term stays until the status has that, otherwise its successor would
    reuse the term.
    """
    missing = _missing(desired, pods, term)
    # Nothing is created while the pause after a failure lasts: once the failed pod is deleted,
    # its replacement looks like any other.
    is_paused = desired.replace_at is not None and now < desired.replace_at
    retry_at = desired.retry_times
    postponed = {p.member for p in missing if p.member in retry_at and now < retry_at[p.member]}
    due = tuple(p for p in missing if p.member not in postponed)
    unneeded = (*_undesired(desired, pods), *_finished(desired, pods, recorded))
    delete = tuple(p for p in unneeded if p.role != Role.COORDINATOR or p.attempt <= term)
    return PodActions(
        create=() if is_paused else due,
        delete=delete,
        requeue_at=earliest(
            desired.replace_at if is_paused and missing else None,
            *(retry_at[member] for member in postponed),
            now + TERM_WAIT if len(delete) < len(unneeded) else None,
        ),
    )


def _missing(desired: DesiredPods, pods: JobPods, term: int) -> list[PodToCreate]:
    missing = []
    if desired.coordinator and pods.coordinator is None:
        attempt = max(term, pods.term) + 1
        missing.append(PodToCreate(role=Role.COORDINATOR, member=0, attempt=attempt))
    role = desired.member_role
    for member in desired.members:
        if member not in pods.members:
            attempt = pods.attempts.get((role, member), 0) + 1
            missing.append(PodToCreate(role=role, member=member, attempt=attempt))
    return missing


def _undesired(desired: DesiredPods, pods: JobPods) -> list[Pod]:
    """Live pods that are not desired; with fewer workers, those are the highest indices."""
    extra = list(pods.surplus)
    if pods.coordinator is not None and desired.replace_coordinator:
        extra.append(pods.coordinator)
    if desired.keeps_live:
        return extra
    extra += [pod for member, pod in pods.members.items() if member not in desired.members]
    if pods.coordinator is not None and not desired.coordinator:
        extra.append(pods.coordinator)
    return extra


def _finished(desired: DesiredPods, pods: JobPods, recorded: frozenset[str]) -> list[Pod]:
    """Finished pods that nothing needs any more: they have only their names and logs.

    One stays until it is replaced, as its attempt is what makes the next name new.
    """
    return [
        pod
        for pod in pods.finished
        if not pod.is_deleting
        and (
            (desired.ends_lingering and pod.lingers)
            or (
                not _is_kept(pod, desired)
                and (not is_failure(pod) or pod.uid in recorded)
                and not _is_to_be_replaced(pod, desired, pods)
            )
        )
    ]


def _is_kept(pod: Pod, desired: DesiredPods) -> bool:
    """Whether it stays for its log."""
    return desired.keeps_finished and not _is_failed_coordinator(pod, desired)


def _is_failed_coordinator(pod: Pod, desired: DesiredPods) -> bool:
    """Whether it goes though finished pods stay: a coordinator may fail again and again meanwhile.

    The status keeps a bounded number of failures and counts more only once older pods are gone.
    """
    return desired.coordinator and pod.role == Role.COORDINATOR and is_failure(pod)


def _is_to_be_replaced(pod: Pod, desired: DesiredPods, pods: JobPods) -> bool:
    """Whether its member is desired and has no live pod."""
    if pod.role == Role.COORDINATOR:
        return desired.coordinator and pods.coordinator is None
    return pod.member in desired.members and pod.member not in pods.members
