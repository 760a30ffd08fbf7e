"""A job's pods, grouped once into a value that every rule reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from trainyard.api.names import MemberId
from trainyard.api.pods import Pod
from trainyard_trainer.contract.env import Role
from trainyard_trainer.contract.exits import Result, TerminationMessage

MEMBER_ROLES = (Role.WORKER, Role.PARTY)
"""Roles of the pods that train; those of one job have the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPods:
    """The job's pods, grouped by role."""

    coordinator: Pod | None
    """The live coordinator of the highest term."""
    members: Mapping[MemberId, Pod]
    """Live workers by index, or parties by name; the latest attempt of each."""
    surplus: tuple[Pod, ...]
    """Live pods of earlier attempts."""
    finished: tuple[Pod, ...]
    """Pods that ended and have not been deleted."""
    attempts: Mapping[tuple[str, MemberId], int]
    """Highest attempt by (role, member), pods of an earlier job of the same name included."""

    @property
    def term(self) -> int:
        """Highest term of any coordinator's pod that still exists."""
        return self.attempts.get((Role.COORDINATOR, 0), 0)

    @property
    def live(self) -> tuple[Pod, ...]:
        """Every pod that runs or will run."""
        coordinator = (self.coordinator,) if self.coordinator else ()
        return (*coordinator, *self.members.values(), *self.surplus)

    @property
    def has_lingering(self) -> bool:
        """Whether another container goes on in a pod that has finished."""
        return any(pod.lingers for pod in self.finished)

    def ended(self, result: Result, *roles: Role) -> tuple[tuple[Pod, TerminationMessage], ...]:
        """Finished pods of these roles whose termination message reports `result`."""
        pairs = (
            (p, TerminationMessage.decode(p.termination_message))
            for p in self.finished
            if p.role in roles
        )
        return tuple((pod, m) for pod, m in pairs if m and m.result is result)


def group_pods(pods: Iterable[Pod], owner_uid: str) -> JobPods:
    """Group the pods; of an earlier job of the same name, only the attempts count."""
    attempts: dict[tuple[str, MemberId], int] = {}
    live: dict[tuple[str, MemberId], Pod] = {}
    surplus: list[Pod] = []
    finished: list[Pod] = []
    for pod in sorted(pods, key=lambda p: p.attempt):
        identity = (pod.role, pod.member)
        attempts[identity] = max(attempts.get(identity, 0), pod.attempt)
        if pod.owner_uid != owner_uid:
            continue
        if pod.is_finished:
            finished.append(pod)
        elif not pod.is_deleting:
            if identity in live:
                surplus.append(live[identity])
            live[identity] = pod
    members = {member: pod for (role, member), pod in live.items() if role in MEMBER_ROLES}
    return JobPods(
        coordinator=live.get((Role.COORDINATOR, 0)),
        members=dict(sorted(members.items(), key=_in_order)),
        surplus=tuple(surplus),
        finished=tuple(finished),
        attempts=attempts,
    )


def subdomain_of(pods: Iterable[Pod], owner_uid: str) -> str | None:
    """The subdomain of the job's pods that have not finished, or None if there are none.

    Pods that are being deleted count: they may still connect to a coordinator that replaces theirs.
    The pods of one job agree, as each is created like those before it.
    """
    unfinished = [p for p in pods if p.owner_uid == owner_uid and not p.is_finished]
    newest = max(unfinished, key=lambda p: (p.role == Role.COORDINATOR, p.attempt), default=None)
    return None if newest is None else newest.subdomain


def _in_order(item: tuple[MemberId, Pod]) -> tuple[bool, MemberId]:
    """Indices by number, names by letter; never one with the other, whatever the labels say."""
    return isinstance(item[0], str), item[0]
