"""State of any dtype and shape travels bit for bit, or is refused with a sentence."""

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.processes.tasks import Line
from tests.unit.trainyard_trainer.training.test_replica import CONFIG, CPU, make, train, turn
from trainyard_trainer.runtime.exits import TaskInvalid
from trainyard_trainer.task import Task
from trainyard_trainer.training.replica import build


class Mixed(Line):
    """NAdam keeps a state of its own dtype beside parameters of another."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.dtype = dtype

    def model(self) -> nn.Module:
        return super().model().to(self.dtype)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return super().loss(model, tuple(column.to(self.dtype) for column in batch))

    def optimizer(self, params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.NAdam(params, lr=0.01)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_optimizer_state_keeps_its_own_dtype(dtype: torch.dtype) -> None:
    one, other = make(Mixed(dtype)), make(Mixed(dtype))
    train([one], 9)
    other.restore(one.encode())
    for mine, theirs in zip(
        one.optimizer.state.values(), other.optimizer.state.values(), strict=True
    ):
        assert {k: v.dtype for k, v in mine.items()} == {k: v.dtype for k, v in theirs.items()}
    assert other.digest() == one.digest()
    for _ in range(20):
        turn([one])
        turn([other])
    assert other.digest() == one.digest()


class Full(nn.Module):
    """Buffers of dtypes that collectives lack, and a complex parameter of odd size."""

    def __init__(self) -> None:
        super().__init__()
        self.odd = nn.Parameter(torch.zeros(3, dtype=torch.float64))
        self.phase = nn.Parameter(torch.ones(3, dtype=torch.complex128))
        self.line = nn.Linear(6, 1).double()
        for dtype in (torch.int16, torch.float8_e4m3fn, torch.complex64, torch.complex128):
            name = str(dtype).rpartition(".")[2]
            self.register_buffer(name, torch.arange(3).to(dtype))
        self.register_buffer("count", torch.zeros((), dtype=torch.int16))
        self.count: Tensor

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.count += 1
        outputs: Tensor = self.line(x) * (self.phase * (1 + 2j)).real.sum() + self.odd.sum()
        return outputs


class Unusual(Line):
    def model(self) -> nn.Module:
        return Full()


@pytest.mark.parametrize("size", [2, 3])
def test_complex_parameters_and_unusual_buffers_train(size: int) -> None:
    one = train([make(Unusual())])
    other = train([make(Unusual()) for _ in range(size)])
    for name, value in one.model.state_dict().items():
        found = other.model.state_dict()[name]
        assert found.dtype == value.dtype
        wide = torch.complex128
        torch.testing.assert_close(found.to(wide), value.to(wide), rtol=1e-9, atol=1e-9)
    joiner = make(Unusual())
    joiner.restore(other.encode())
    assert joiner.digest() == other.digest()


def test_all_that_collectives_reduce_or_send_is_of_dtypes_they_know() -> None:
    work = make(Unusual()).compute(0, 1)
    assert not any(flat.is_complex() for flat in work.gradients)
    assert {buffer.dtype for buffer in work.buffers} == {torch.uint8}


class Ranged(nn.Module):
    """A buffer that takes its shape in the first forward pass; `grows` makes it go on growing."""

    def __init__(self, grows: bool) -> None:
        super().__init__()
        self.line, self.grows = nn.Linear(6, 1).double(), grows
        self.register_buffer("low", torch.empty(0, dtype=torch.float64))
        self.low: Tensor

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            lowest = x.detach().amin(0)
            if self.grows:
                self.low.resize_(self.low.numel() + 1)
            elif not self.low.numel():
                self.low.resize_(lowest.shape).copy_(lowest)
            else:
                self.low.copy_(torch.minimum(self.low, lowest))
        outputs: Tensor = self.line(x)
        return outputs


class Observed(Line):
    def __init__(self, grows: bool = False) -> None:
        super().__init__()
        self.grows = grows

    def model(self) -> nn.Module:
        return Ranged(self.grows)


def test_a_buffer_may_take_its_shape_in_the_first_pass() -> None:
    one = train([make(Observed()) for _ in range(20)])
    assert one.model.low.shape == (6,)
    joiner = make(Observed())
    joiner.restore(one.encode())
    assert joiner.digest() == one.digest()


def test_a_buffer_that_changes_its_shape_later_is_refused_by_name() -> None:
    with pytest.raises(TaskInvalid, match="low has changed its size"):
        turn([make(Observed(grows=True))])


class Registering(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        self.register_buffer("seen", torch.zeros(1))
        return super().forward(x)


class Late(Line):
    def model(self) -> nn.Module:
        return Registering(6, 1).double()


class Lazy(Line):
    def model(self) -> nn.Module:
        return nn.LazyLinear(1)


class Holding(torch.optim.lr_scheduler.LambdaLR):
    """A schedule that holds another one."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.after = torch.optim.lr_scheduler.ConstantLR(optimizer)
        super().__init__(optimizer, lambda _: 1.0)


class Held(Line):
    def scheduler(self, optimizer: torch.optim.Optimizer) -> Any:
        return Holding(optimizer)


class Keyed(Line):
    def optimizer(self, params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        optimizer = super().optimizer(params)
        optimizer.param_groups[0]["by_layer"] = {(0, "weight"): 1.0}
        return optimizer


@pytest.mark.parametrize(
    ("cls", "says"),
    [
        (Late, "registers or removes seen"),
        (Lazy, "lazy"),
        (Held, "scheduler.after holds a ConstantLR"),
        (Keyed, "which cannot be stored"),
    ],
)
def test_state_that_cannot_be_stored_is_refused_before_training(cls: type[Task], says: str) -> None:
    with pytest.raises(TaskInvalid, match=says):
        build(cls(), CONFIG, CPU)


class Stateful(torch.optim.SGD):
    def step(self, closure: Any = None) -> Any:
        for param in self.param_groups[0]["params"]:
            self.state[param]["function"] = len
        return super().step(closure)


class Unstorable(Line):
    def optimizer(self, params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return Stateful(params, lr=0.1)


def test_optimizer_state_that_cannot_be_stored_is_refused_at_the_first_step() -> None:
    replica = make(Unstorable())
    with pytest.raises(TaskInvalid, match="function holds a builtin_function_or_method"):
        turn([replica])


class Replacing(Line):
    """Replaces its gradients after a while, which would then not be reduced."""

    calls = 0

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        self.calls += 1
        if self.calls > 8:
            model.zero_grad(set_to_none=True)
        return super().loss(model, batch)


def test_gradients_that_the_task_replaces_later_are_refused() -> None:
    with pytest.raises(TaskInvalid, match="own gradients"):
        train([make(Replacing())])
