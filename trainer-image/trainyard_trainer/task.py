"""The class that users subclass for their training code, and how it is loaded by name.

A Task defines what is trained on what, and knows nothing of workers: it is all that a user needs to
read. Only `model` and `train_data` have no default.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import sysconfig
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import default_collate

from trainyard_trainer.runtime.arguments import with_floats
from trainyard_trainer.runtime.exits import TaskInvalid

Batch = Any
T = TypeVar("T", bound=nn.Module)


class Data(Protocol):
    """A map-style data set: `len(data)` samples, `data[i]` for each."""

    def __len__(self) -> int:
        """How many samples there are."""

    def __getitem__(self, index: int, /) -> Any:
        """The sample at `index`."""


@runtime_checkable
class Gathers(Protocol):
    """A data set that makes a whole batch at once, which is much faster for data in memory."""

    def gather(self, ids: Sequence[int]) -> Batch:
        """The batch of the samples `ids`."""


class Tensors:
    """A data set of tensors of equal length; a sample is a tuple of one row of each."""

    def __init__(self, *columns: Tensor) -> None:
        """`columns` share their first dimension, the samples."""
        self.columns = columns

    def __len__(self) -> int:
        """How many samples there are."""
        return len(self.columns[0])

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        """The rows at `index`."""
        return tuple(column[index] for column in self.columns)

    def gather(self, ids: Sequence[int]) -> tuple[Tensor, ...]:
        """The rows `ids` of each column, stacked."""
        rows = torch.as_tensor(ids)
        return tuple(column[rows] for column in self.columns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Party:
    """Who this process is in a federation, and where its own data lies."""

    name: str
    data: Path | None = None
    """The folder of its data claim; None for a party that names none."""


class Task:
    """What is trained, on what, and how; subclass it and name it in `task.entrypoint`.

    `task.args` become the arguments of the subclass' constructor. The same Task runs in one
    process, in a DistributedJob of any size and in a FederatedJob.
    """

    clip_norm: ClassVar[float | None] = None
    """The gradient of the whole batch is clipped to this Euclidean norm."""
    accumulate: ClassVar[int] = 1
    """A worker computes its share in so many pieces, to need less memory."""
    autocast: ClassVar[torch.dtype | None] = None
    """Run the forward pass in this dtype where PyTorch holds it safe; bfloat16 needs no scaler."""

    party: Party | None = None
    """Set before anything is asked of a Task in a federation: whose data it should load."""

    def model(self) -> nn.Module:
        """The model, freshly initialized; PyTorch's generator is seeded before the call."""
        raise NotImplementedError

    def train_data(self) -> Data:
        """The training samples."""
        raise NotImplementedError

    def eval_data(self) -> Data | None:
        """The held-out samples; None for no evaluation."""
        return None

    def collate(self, samples: list[Any]) -> Batch:
        """A batch of samples; not asked where the data set has `gather`."""
        return default_collate(samples)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean loss over the batch (a scalar), or one loss a sample (a vector).

        The default is the cross entropy of `model(inputs)` for batches `(inputs, classes)`.
        """
        inputs, classes = batch
        return nn.functional.cross_entropy(model(inputs), classes)

    def weights(self, batch: Batch) -> Tensor | None:  # noqa: ARG002
        """One weight a sample, or None for equal ones.

        A scalar `loss` must then be the weighted mean; a vector is weighted by the trainer.
        """
        return None

    def metrics(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor | float]:
        """Means over the batch by name, weighted if `weights` gives weights; default: accuracy.

        A name may be left out for a batch that has no such mean, unless it is the first.
        """
        inputs, classes = batch
        hits = (model(inputs).argmax(dim=-1) == classes).double()
        weights = self.weights(batch)
        if weights is None:
            return {"accuracy": hits.mean()}
        return {"accuracy": (hits * weights).sum() / weights.sum()}

    def summary(self, means: Mapping[str, float]) -> Mapping[str, float]:
        """The metrics reported, from the means of `metrics` and `loss` over all held-out samples.

        Override it for a metric that is not a mean, such as a ratio or a root.
        """
        return means

    def optimizer(self, params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimizer; any of `torch.optim` but LBFGS."""
        return torch.optim.AdamW(params, lr=1e-3)

    def scheduler(self, optimizer: torch.optim.Optimizer) -> LRScheduler | None:  # noqa: ARG002
        """The learning rate's schedule, stepped once a training step; None keeps it."""
        return None


def fetch(task: Task, data: Data, ids: Sequence[int]) -> Batch:
    """The batch of the samples `ids`."""
    if isinstance(data, Gathers):
        return data.gather(ids)
    return task.collate([data[i] for i in ids])


def load(use: str, args: Mapping[str, Any], party: Party | None = None) -> Task:
    """The Task that `use` (`module:Class`) names, made with `args`, for `party` in a federation.

    Raises TaskInvalid with a sentence that names the field and what is available.
    """
    module_name, _, class_name = use.partition(":")
    if not module_name or not class_name:
        raise TaskInvalid(f"task.entrypoint is {use!r}; write it as module:Class")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise TaskInvalid(_missing(use, module_name, error.name or "")) from None
    task = _make(use, _pick(use, module, class_name), args)
    task.party = party
    return task


def _missing(use: str, module: str, missing: str) -> str:
    """A sentence on a module that was not found: the Task's own, or one that it imports."""
    if missing != module and not module.startswith(f"{missing}."):
        return f"task.entrypoint is {use!r}, and {module} needs the module {missing!r}: install it"
    return (
        f"task.entrypoint is {use!r}, but there is no module {missing!r} in "
        f"{', '.join(_searched()) or 'any directory of sys.path'}"
    )


def _searched() -> list[str]:
    """The directories in which modules are searched, without those of the standard library."""
    standard = Path(sysconfig.get_path("platstdlib"))
    skipped = {Path(sysconfig.get_path("stdlib")), standard, standard / "lib-dynload"}
    folders = dict.fromkeys(Path(entry).absolute() for entry in sys.path)
    return [str(folder) for folder in folders if folder.is_dir() and folder not in skipped]


def _pick(use: str, module: Any, class_name: str) -> type[Task]:
    found = getattr(module, class_name, None)
    if isinstance(found, type) and issubclass(found, Task):
        return found
    tasks = [n for n, v in vars(module).items() if isinstance(v, type) and issubclass(v, Task)]
    names = ", ".join(sorted(n for n in tasks if n != "Task")) or "no Task"
    what = "no class" if found is None else "something other than a Task called"
    raise TaskInvalid(
        f"task.entrypoint is {use!r}, but {module.__name__} has {what} {class_name!r}; "
        f"it has {names}"
    )


def _make(use: str, cls: type[Task], args: Mapping[str, Any]) -> Task:
    signature = inspect.signature(cls)
    try:
        signature.bind(**args)
    except TypeError as error:
        takes = ", ".join(signature.parameters) or "no arguments"
        raise TaskInvalid(f"task.args: {error}; {use} takes {takes}") from None
    try:
        converted = with_floats(cls, args)
    except OverflowError as error:
        raise TaskInvalid(f"task.args: {error}; {use} takes a float") from None
    return cls(**converted)
