"""The model's buffers as bytes, which every collective can send whatever their dtypes are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainyard_trainer.runtime.exits import TaskInvalid


def names(model: nn.Module) -> list[str]:
    """The names of all parameters and buffers."""
    return [name for name, _ in model.named_parameters()] + [n for n, _ in model.named_buffers()]


def copies(model: nn.Module) -> list[Tensor]:
    """A copy of each buffer as flat uint8."""
    return [
        buffer.detach().clone(memory_format=torch.contiguous_format).reshape(-1).view(torch.uint8)
        for buffer in model.buffers()
    ]


def load(model: nn.Module, values: list[Tensor]) -> None:
    """Copy what `copies` made back into the buffers."""
    with torch.no_grad():
        for buffer, value in zip(model.buffers(), values, strict=True):
            buffer.copy_(value.view(buffer.dtype).view(buffer.shape))


def load_unchanged(model: nn.Module, values: list[Tensor]) -> None:
    """Like `load`, but buffers that have changed their size since keep what they hold.

    Some take their shape in the first forward pass: the warm-up's is the same on all workers.
    """
    current = copies(model)
    load(
        model,
        [v if v.shape == own.shape else own for v, own in zip(values, current, strict=True)],
    )


def check(model: nn.Module, expected: list[str]) -> None:
    """Raise TaskInvalid when parameters or buffers have come or gone since `expected`."""
    if changed := sorted(set(expected).symmetric_difference(names(model))):
        raise TaskInvalid(
            f"the forward pass registers or removes {', '.join(changed[:5])}: register parameters "
            "and buffers when the model is built, empty if their shapes are not known yet"
        )


def check_sizes(model: nn.Module, before: list[Tensor], after: list[Tensor]) -> None:
    """Raise TaskInvalid when an iteration has changed the size of a buffer."""
    for (name, _), old, new in zip(model.named_buffers(), before, after, strict=True):
        if old.shape != new.shape:
            raise TaskInvalid(
                f"the buffer {name} has changed its size in training, where workers must agree: "
                "its shape may change in the first forward pass alone"
            )
