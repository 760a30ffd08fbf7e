"""A job's pods, sorted once into a value that every rule reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from trainyard.api.names import MemberId
from trainyard.api.pods import Pod
from trainyard_trainer.contract.env import Role
from trainyard_trainer.contract.exits import Result, TerminationMessage

MEMBER_ROLES = (Role.WORKER, Role.PARTY)
"""Roles of the pods that do the training; a job has those of one of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPods:
    """Who is there, by role."""

    coordinator: Pod | None
    """The live coordinator of the highest term."""
    members: Mapping[MemberId, Pod]
    """Live workers by index, or parties by name; of two in one place, the later attempt."""
    surplus: tuple[Pod, ...]
    """Live pods that another of the same place has replaced."""
    finished: tuple[Pod, ...]
    """Pods that ended and have not been removed."""
    attempts: Mapping[tuple[str, MemberId], int]
    """Highest attempt seen by (role, member), an earlier namesake's pods included."""

    @property
    def term(self) -> int:
        """Highest term of any coordinator's pod still to be seen."""
        return self.attempts.get((Role.COORDINATOR, 0), 0)

    @property
    def live(self) -> tuple[Pod, ...]:
        """Every pod that runs or will run."""
        coordinator = (self.coordinator,) if self.coordinator else ()
        return (*coordinator, *self.members.values(), *self.surplus)

    def ended(self, result: Result, *roles: Role) -> tuple[tuple[Pod, TerminationMessage], ...]:
        """Finished pods of these roles whose last words report `result`."""
        pairs = (
            (p, TerminationMessage.decode(p.termination_message))
            for p in self.finished
            if p.role in roles
        )
        return tuple((p, words) for p, words in pairs if words and words.result is result)


def group_pods(pods: Iterable[Pod], owner_uid: str) -> JobPods:
    """Sort; pods of an earlier job of the same name only keep their names taken."""
    attempts: dict[tuple[str, MemberId], int] = {}
    live: dict[tuple[str, MemberId], Pod] = {}
    surplus: list[Pod] = []
    finished: list[Pod] = []
    for pod in sorted(pods, key=lambda p: p.attempt):
        place = (pod.role, pod.member)
        attempts[place] = max(attempts.get(place, 0), pod.attempt)
        if pod.owner_uid != owner_uid:
            continue
        if pod.is_finished:
            finished.append(pod)
        elif not pod.is_deleting:
            if place in live:
                surplus.append(live[place])
            live[place] = pod
    members = {member: pod for (role, member), pod in live.items() if role in MEMBER_ROLES}
    return JobPods(
        coordinator=live.get((Role.COORDINATOR, 0)),
        members=dict(sorted(members.items(), key=_in_order)),
        surplus=tuple(surplus),
        finished=tuple(finished),
        attempts=attempts,
    )


def _in_order(item: tuple[MemberId, Pod]) -> tuple[bool, MemberId]:
    """Indices by number, names by letter; never one with the other, whatever the labels say."""
    return isinstance(item[0], str), item[0]
