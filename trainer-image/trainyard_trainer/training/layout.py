"""What all workers of a job must have alike to train together, in readable lines."""

from __future__ import annotations

import hashlib
from itertools import chain
from typing import Final

from torch import Tensor

from trainyard_trainer.contract.text import encodable
from trainyard_trainer.training.replica import Replica

MAX_LINES: Final = 1000
MAX_LINE: Final = 300


def layout(replica: Replica) -> tuple[str, ...]:
    """Data, optimizer, metrics and tensors of a warm replica, a line of up to `MAX_LINE` each.

    A digest stands for the lines beyond `MAX_LINES`.
    """
    lines = [_shortened(line) for line in _lines(replica)]
    if len(lines) <= MAX_LINES:
        return tuple(lines)
    kept, rest = lines[: MAX_LINES - 1], lines[MAX_LINES - 1 :]
    digest = hashlib.sha256("\n".join(rest).encode()).hexdigest()
    return (*kept, f"{len(rest)} more tensors with the digest {digest[:16]}")


def _lines(replica: Replica) -> list[str]:
    evaluated = 0 if replica.eval_data is None else len(replica.eval_data)
    scheduler = replica.scheduler
    model = replica.model
    return [
        f"{replica.cursor.size} samples in train_data",
        f"{evaluated} samples in eval_data",
        f"the optimizer {_class(replica.optimizer)}",
        "no scheduler" if scheduler is None else f"the scheduler {_class(scheduler)}",
        f"the metrics {', '.join(replica.metric_names)}",
        f"{replica.cursor.least} samples in the least share",
        *(
            _tensor(name, tensor)
            for name, tensor in chain(model.named_parameters(), model.named_buffers())
        ),
    ]


def _tensor(name: str, tensor: Tensor) -> str:
    kind = str(tensor.dtype).removeprefix("torch.")
    trained = "" if tensor.requires_grad else ", not trained"
    return f"the tensor {name} ({kind} {list(tensor.shape)}{trained})"


def _class(value: object) -> str:
    return type(value).__name__


def _shortened(line: str) -> str:
    """The line; where it is too long, its beginning and a digest of all of it."""
    line = encodable(line)
    if len(line) <= MAX_LINE:
        return line
    digest = hashlib.sha256(line.encode()).hexdigest()[:16]
    return f"{line[: MAX_LINE - 20]}... {digest}"
