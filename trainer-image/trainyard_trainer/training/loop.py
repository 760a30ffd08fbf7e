"""The training loop, readable top to bottom: the same for one process and for many.

An *iteration* is a training step or an evaluation. Each worker computes its share of it, the sums
over all workers decide that it is committed, and between two iterations the workers may change.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from torch import Tensor

from trainyard_trainer.contract.exits import Result
from trainyard_trainer.runtime.exits import TaskFailed, TrainerError
from trainyard_trainer.training.replica import Contribution, Replica

log = logging.getLogger(__name__)


class CollectiveError(Exception):
    """A collective has failed, so that the iteration is to be computed again."""


class ReplicaGroup(Protocol):
    """The replicas that train together: an elastic group of workers, or one (`SingleReplica`)."""

    @property
    def rank(self) -> int:
        """This replica's place among those that share the next iteration."""

    @property
    def world_size(self) -> int:
        """How many replicas share the next iteration."""

    def join(self) -> None:
        """Wait until this replica is a member and has the members' state."""

    def recover(self) -> None:
        """Join again after a collective has failed; the iteration is not committed."""

    def synchronize(self, work: Contribution) -> Tensor:
        """Sum an iteration's work over all members, in place, and return the sum of its totals.

        Raises CollectiveError, and then nothing is committed.
        """

    def step_boundary(self) -> None:
        """Change the members after a committed iteration, when all have agreed to."""

    @property
    def is_done(self) -> bool:
        """Whether training has come to its end, or to a suspension."""


class Observer(Protocol):
    """What watches the loop: metrics, progress bars."""

    def committed(self, replica: Replica, compute_seconds: float) -> None:
        """Called after each committed iteration; its computation took `compute_seconds`."""


def train(replica: Replica, peers: ReplicaGroup, observer: Observer) -> None:
    """Train until the end or a suspension; the replica then holds the final state."""
    peers.join()
    while not peers.is_done:
        try:
            started = time.perf_counter()
            with task_failures():
                work = replica.compute(peers.rank, peers.world_size)
            computed = time.perf_counter() - started
            totals = peers.synchronize(work)
        except CollectiveError as error:
            log.warning("iteration %d failed: %s", replica.iteration, error)
            peers.recover()
            continue
        with task_failures():
            replica.commit(totals, work)
        observer.committed(replica, computed)
        peers.step_boundary()


@contextmanager
def task_failures() -> Iterator[None]:
    """Turn what the user's code raises into TaskFailed, with a sentence and the cause."""
    try:
        yield
    except TrainerError:
        raise
    except Exception as error:
        raise TaskFailed(f"the task raised {type(error).__name__}: {error}") from error


class SingleReplica:
    """The group of a replica that trains in one process."""

    rank: Final = 0
    world_size: Final = 1

    def __init__(self, replica: Replica) -> None:
        """`replica` already has its state."""
        self._replica = replica

    def join(self) -> None:
        """Return at once."""

    def recover(self) -> None:
        """Return at once: nothing fails without peers."""

    def synchronize(self, work: Contribution) -> Tensor:
        """Return the work's own totals."""
        return work.totals

    def step_boundary(self) -> None:
        """Return at once."""

    @property
    def is_done(self) -> bool:
        """Whether training has come to its end."""
        return self._replica.is_over


def outcome(replica: Replica) -> Result:
    """How a training that `train` has returned from ended."""
    return Result.COMPLETE if replica.is_over else Result.SUSPENDED
