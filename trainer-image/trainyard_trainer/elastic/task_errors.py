"""What a worker reports of an error of the user's code."""

from __future__ import annotations

import numpy as np
import torch

from trainyard_trainer.elastic.session import REASON_CHARACTERS
from trainyard_trainer.membership.messages import MAX_SAMPLES, TaskRaised
from trainyard_trainer.runtime.exits import TaskFailed
from trainyard_trainer.training.cursor import bounds
from trainyard_trainer.training.replica import Replica


def task_raised(error: TaskFailed, replica: Replica, rank: int, size: int) -> TaskRaised:
    """The report of an error in the part of `rank` of `size` workers of the next iteration."""
    if replica.is_evaluating:
        first, end = bounds(len(replica.eval_data or ()), rank, size)
        ids = np.arange(first, min(end, first + MAX_SAMPLES), dtype=np.int64)
    else:
        positions = replica.cursor.batch(replica.batch_size)
        first, end = bounds(len(positions), rank, size, replica.cursor.least)
        ids = replica.cursor.ids(positions[first : min(end, first + MAX_SAMPLES)])
    # Another worker's part may be larger, and does not fit because of that.
    is_memory = isinstance(error.__cause__, MemoryError | torch.OutOfMemoryError)
    return TaskRaised(
        iteration=replica.iteration,
        first=first,
        end=first if is_memory else end,
        samples=tuple(ids.tolist()),
        data="eval_data" if replica.is_evaluating else "train_data",
        reason=str(error)[:REASON_CHARACTERS],
    )
