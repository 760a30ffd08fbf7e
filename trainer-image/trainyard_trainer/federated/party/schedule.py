"""The Task's learning-rate schedule, which goes on from round to round.

Each round has a new optimizer and a new scheduler. Their position is kept, so that a round steps
them only from where the last one began, and not from the first round.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from trainyard_trainer.runtime.exits import TaskInvalid


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Optimizer and scheduler at the start of a round, before its first step."""

    number: int
    """Of the round."""
    lr: float | None
    """The party's learning rate that the schedule began with; None for the job's."""
    groups: list[dict[str, Any]]
    """Each parameter group's settings, without its parameters."""
    scheduler: dict[str, Any]


class RoundSchedule:
    """Brings each round's scheduler to the start of the round."""

    def __init__(self, steps: int, rounds: int) -> None:
        """A round has `steps` steps; the federation has at most `rounds` rounds."""
        self._steps, self._rounds = steps, rounds
        self._position: Position | None = None

    def check(self, scheduler: LRScheduler | None) -> None:
        """Step a new scheduler to its end; raises TaskInvalid if that comes before the last round.

        The scheduler cannot be used afterwards.
        """
        self._step(scheduler, self._rounds)

    def start_round(
        self, number: int, optimizer: Optimizer, scheduler: LRScheduler | None, lr: float | None
    ) -> None:
        """Bring a new optimizer and its new scheduler to the start of round `number`.

        Without a position of this or an earlier round with the same learning rate, all previous
        rounds are stepped through.
        """
        if scheduler is None:
            return
        first, position = 1, self._position
        if position is not None and position.number <= number and position.lr == lr:
            _restore(position, optimizer, scheduler)
            first = position.number
        self._step(scheduler, number - first)
        self._position = Position(
            number=number,
            lr=lr,
            groups=[copy.deepcopy(_settings(group)) for group in optimizer.param_groups],
            scheduler=copy.deepcopy(scheduler.state_dict()),
        )

    def _step(self, scheduler: LRScheduler | None, rounds: int) -> None:
        if scheduler is None:
            return
        with warnings.catch_warnings():
            # The optimizer is new and has made no step, but those of previous rounds have.
            warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")
            for _ in range(rounds * self._steps):
                try:
                    scheduler.step()
                except ValueError as error:
                    raise TaskInvalid(
                        f"the scheduler does not last for {self._rounds} rounds of "
                        f"{self._steps} steps: {error}"
                    ) from error


def _restore(position: Position, optimizer: Optimizer, scheduler: LRScheduler) -> None:
    """Put a new optimizer and its new scheduler at `position`."""
    for group, settings in zip(optimizer.param_groups, position.groups, strict=True):
        group.update(copy.deepcopy(settings))
    scheduler.load_state_dict(copy.deepcopy(position.scheduler))


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name != "params"}
