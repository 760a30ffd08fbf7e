"""Batches: their device, and the weighted sums of their losses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trainyard_trainer.runtime.exits import TaskInvalid


def weigh(loss: Tensor, weights: Tensor | None, samples: int) -> tuple[Tensor, float]:
    """The weighted sum of the batch's losses (a scalar tensor), and the sum of its weights."""
    total = float(samples) if weights is None else float(weights.double().sum())
    if loss.ndim == 0:
        return loss * total, total
    if loss.shape != (samples,):
        shape = tuple(loss.shape)
        raise TaskInvalid(f"loss returned shape {shape}; return a scalar or ({samples},)")
    return (loss if weights is None else loss * weights).sum(), total


def move(batch: Any, device: torch.device) -> Any:
    """The batch with all its tensors on `device`."""
    match batch:
        case Tensor():
            return batch.to(device, non_blocking=True)
        case Mapping():
            return {k: move(v, device) for k, v in batch.items()}
        case tuple() if hasattr(batch, "_fields"):
            return type(batch)(*(move(v, device) for v in batch))
        case tuple() | list():
            return type(batch)(move(v, device) for v in batch)
        case _:
            return batch
