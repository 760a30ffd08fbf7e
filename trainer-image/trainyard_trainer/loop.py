"""The training loop, readable top to bottom: the same for one process and for many.

A *turn* is a training step or an evaluation. Each worker computes its share of the turn, the sums
over all workers decide that the turn is committed, and between two turns the crew may change.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from torch import Tensor

from trainyard_trainer.contract import Result
from trainyard_trainer.elastic.group import Broken, Group, Solo
from trainyard_trainer.membership.participant import Votes
from trainyard_trainer.process import Ending, TaskFailed
from trainyard_trainer.replica import Replica, Work

log = logging.getLogger(__name__)


class Company(Protocol):
    """With whom a replica trains: a `Crew`, or nobody (`Alone`)."""

    group: Group

    def settle(self) -> Group:
        """Wait until the replica is among workers whose state it has."""

    def recover(self) -> Group:
        """Settle again after a turn has broken."""

    def reduce(self, work: Work) -> tuple[Tensor, Votes]:
        """Sum a turn's work over all; raises Broken, and then nothing is committed."""

    def boundary(self, votes: Votes) -> Group:
        """Change the company, when all have agreed to."""

    @property
    def is_done(self) -> bool:
        """Whether training has come to its end, or to a suspension."""


class Observer(Protocol):
    """Who watches the loop: metrics, progress bars."""

    def committed(self, replica: Replica, company: Company, compute_seconds: float) -> None:
        """A turn has been committed."""


def train(replica: Replica, company: Company, observer: Observer) -> None:
    """Train until the end or a suspension; the replica then holds the final state."""
    group = company.settle()
    while not company.is_done:
        try:
            started = time.perf_counter()
            with blaming_the_task():
                work = replica.compute(group.rank, group.size)
            computed = time.perf_counter() - started
            totals, votes = company.reduce(work)
        except Broken as error:
            log.warning("turn %d has broken: %s", replica.turn, error)
            group = company.recover()
            continue
        with blaming_the_task():
            replica.commit(totals, work)
        observer.committed(replica, company, computed)
        group = company.boundary(votes)


@contextmanager
def blaming_the_task() -> Iterator[None]:
    """Turn what the user's code raises into TaskFailed, with a sentence and the cause."""
    try:
        yield
    except Ending:
        raise
    except Exception as error:
        raise TaskFailed(f"the task raised {type(error).__name__}: {error}") from error


class Alone:
    """The company of a replica that trains in one process."""

    def __init__(self, replica: Replica) -> None:
        """`replica` already has its state."""
        self.group: Group = Solo()
        self._replica = replica

    def settle(self) -> Group:
        """At once."""
        return self.group

    def recover(self) -> Group:
        """Nothing breaks alone."""
        return self.group

    def reduce(self, work: Work) -> tuple[Tensor, Votes]:
        """The work is the sum."""
        return work.totals, Votes()

    def boundary(self, votes: Votes) -> Group:  # noqa: ARG002
        """Nobody comes or goes."""
        return self.group

    @property
    def is_done(self) -> bool:
        """Whether training has come to its end."""
        return self._replica.is_over


def outcome(replica: Replica) -> Result:
    """How a training that `train` has returned from ended."""
    return Result.COMPLETE if replica.is_over else Result.SUSPENDED
