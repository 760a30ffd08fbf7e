"""A job's pods, sorted once into a value that every rule reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from trainyard.api.pods import Pod
from trainyard_trainer.contract import LastWords, Result, Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Roster:
    """Who is there, by role."""

    coordinator: Pod | None
    """The live coordinator of the highest term."""
    workers: Mapping[int, Pod]
    """Live workers by index; of two with one index, the later attempt."""
    surplus: tuple[Pod, ...]
    """Live pods that another of the same place has replaced."""
    finished: tuple[Pod, ...]
    """Pods that ended and have not been removed."""
    attempts: Mapping[tuple[str, int], int]
    """Highest attempt seen by (role, index), an earlier namesake's pods included."""

    @property
    def term(self) -> int:
        """Highest term of any coordinator's pod still to be seen."""
        return self.attempts.get((Role.COORDINATOR, 0), 0)

    @property
    def live(self) -> tuple[Pod, ...]:
        """Every pod that runs or will run."""
        coordinator = (self.coordinator,) if self.coordinator else ()
        return (*coordinator, *self.workers.values(), *self.surplus)

    def ended(self, role: Role, result: Result) -> tuple[tuple[Pod, LastWords], ...]:
        """Finished pods of a role whose last words report `result`."""
        pairs = ((p, LastWords.decode(p.words)) for p in self.finished if p.role == role)
        return tuple((p, words) for p, words in pairs if words and words.result is result)


def sort_pods(pods: Iterable[Pod], owner_uid: str) -> Roster:
    """Sort; pods of an earlier job of the same name only keep their names taken."""
    attempts: dict[tuple[str, int], int] = {}
    live: dict[tuple[str, int], Pod] = {}
    surplus: list[Pod] = []
    finished: list[Pod] = []
    for pod in sorted(pods, key=lambda p: p.attempt):
        place = (pod.role, pod.index)
        attempts[place] = max(attempts.get(place, 0), pod.attempt)
        if pod.owner_uid != owner_uid:
            continue
        if pod.is_finished:
            finished.append(pod)
        elif not pod.is_deleting:
            if place in live:
                surplus.append(live[place])
            live[place] = pod
    workers = {index: pod for (role, index), pod in live.items() if role == Role.WORKER}
    return Roster(
        coordinator=live.get((Role.COORDINATOR, 0)),
        workers=dict(sorted(workers.items())),
        surplus=tuple(surplus),
        finished=tuple(finished),
        attempts=attempts,
    )
