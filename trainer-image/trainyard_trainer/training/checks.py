"""What elastic training cannot do, refused before it begins."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from trainyard_trainer.runtime.exits import TaskInvalid
from trainyard_trainer.task import Data, Task


def refuse_lazy(model: nn.Module) -> None:
    """Raise TaskInvalid for parameters whose shape is not known when the model is built."""
    for name, param in model.named_parameters():
        if is_lazy(param):
            raise TaskInvalid(f"{name} is lazy: give its module the number of input features")


def refuse_unsupported(
    model: nn.Module, optimizer: Optimizer, scheduler: LRScheduler | None
) -> None:
    """Raise TaskInvalid for what elastic training cannot do, each with its reason."""
    if isinstance(optimizer, torch.optim.LBFGS):
        raise TaskInvalid("LBFGS evaluates the loss several times a step: use another optimizer")
    if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
        raise TaskInvalid("ReduceLROnPlateau needs a metric each step: use another scheduler")
    for name, module in model.named_modules():
        if getattr(module, "sparse", False):
            raise TaskInvalid(f"{name} makes sparse gradients: build it with sparse=False")


def refuse_unsupported_data(task: Task, train_data: Data, eval_data: Data | None) -> None:
    """Raise TaskInvalid for data sets and precisions that are not supported."""
    if task.autocast is torch.float16:
        raise TaskInvalid("float16 needs a gradient scaler: set autocast to torch.bfloat16")
    for name, data in (("train_data", train_data), ("eval_data", eval_data)):
        if data is not None and not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
            raise TaskInvalid(f"{name} is not map-style: it needs __len__ and __getitem__")
    if len(train_data) == 0:
        raise TaskInvalid("train_data is empty")
