"""Local training: evaluates the global model and trains it on a party's own data.

It uses a `Replica` as a single worker would: gradient clipping, accumulation, autocast and sample
weights work as in a DistributedJob. Each round starts with a new optimizer (McMahan et al. 2017),
and the order of the data is a function of the job's seed, the round and the party's name, so a
round that is repeated gives the same update bit for bit.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec
import torch
from torch import Tensor

from trainyard_trainer.contract.config import JobConfig, Target
from trainyard_trainer.federated.party.schedule import RoundSchedule
from trainyard_trainer.federated.party.state import ModelState
from trainyard_trainer.federated.protocol.layout import MAX_HEADER_BYTES
from trainyard_trainer.federated.protocol.messages import TrainConfig
from trainyard_trainer.runtime.exits import TaskInvalid
from trainyard_trainer.task import Party, load
from trainyard_trainer.training.checks import refuse_unsupported
from trainyard_trainer.training.cursor import Cursor
from trainyard_trainer.training.loop import task_failures
from trainyard_trainer.training.replica import Replica, build

WIDEST_BYTES: Final = 16
"""Of one number in any dtype that a model file may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOutcome:
    """The outcome of one round of local training."""

    samples: int
    """Training samples of the party, which are also the update's weight."""
    loss: float | None
    """Mean training loss over the round, by sample weights; None if it is not finite."""


class LocalTrainer:
    """One party's model and data, for all rounds."""

    def __init__(self, config: TrainConfig, party: Party, device: torch.device) -> None:
        """Build and warm up the Task; raises TaskInvalid or TaskFailed."""
        self.config, self._party = config, party
        # The aggregator checks the target's value; whether the Task has the metric is checked here.
        target = Target(metric=config.target, value=math.inf) if config.target else None
        self._job_config = JobConfig(
            task=config.task,
            args=config.args,
            batch_size=config.batch_size,
            epochs=config.local_epochs,
            seed=config.seed,
            target=target,
        )
        with task_failures():
            task = load(config.task, config.args, party)
        self._replica: Replica = build(task, self._job_config, device)
        self.state = ModelState(self._replica.model)
        steps = self._replica.cursor.steps_per_epoch(config.batch_size) * config.local_epochs
        self._schedule = RoundSchedule(steps, config.rounds)
        with task_failures():
            self._start_round(1)  # Invalid optimizer settings fail before the first round.
            self._schedule.check(self._replica.scheduler)  # So does a schedule that ends early.

    @property
    def eval_samples(self) -> int:
        """The number of held-out samples."""
        data = self._replica.eval_data
        return 0 if data is None else len(data)

    def update_config(self, config: TrainConfig) -> None:
        """Take the settings that may change between rounds: the party's learning rate."""
        self.config = msgspec.structs.replace(self.config, lr=config.lr)

    @property
    def max_init_bytes(self) -> int:
        """More than any file has that fits the model: every number in the widest dtype."""
        # A file may have tied tensors once or under each name, and temporary ones or not.
        layout = self.state.layout
        entries = (*layout.entries, *layout.published.entries)
        return MAX_HEADER_BYTES + sum(entry.elements for entry in entries) * WIDEST_BYTES

    def start_from(self, data: bytes) -> None:
        """Load the job's starting model; raises TaskInvalid if it does not fit."""
        self._replica.start_from(data, "the file")

    def evaluate(self) -> dict[str, float]:
        """The global model's metrics on this party's held-out data."""
        self.state.unpack()
        if self._replica.eval_data is None:
            return {}
        with task_failures():
            self._replica.is_evaluating = True
            work = self._replica.compute(0, 1)
            self._replica.commit(work.totals, work)
        return dict(self._replica.metrics)

    def train(self, number: int) -> TrainingOutcome:
        """Train the global model for round `number`; `state` then holds the result."""
        self.state.unpack()
        with task_failures():
            outcome = self._train(number)
        self.state.pack()
        return outcome

    def _train(self, number: int) -> TrainingOutcome:
        replica = self._replica
        self._start_round(number)
        params = replica.gradients.params
        global_params = [p.detach().clone() for p in params] if self._mu else []
        losses = weights = 0.0
        while replica.cursor.epoch < self.config.local_epochs:
            work = replica.compute(0, 1)
            self._add_proximal_term(global_params, float(work.totals[3] / work.totals[0]))
            replica.commit(work.totals, work)
            replica.is_evaluating = False  # The aggregator decides when to evaluate.
            losses += float(work.totals[4])
            weights += float(work.totals[3])
        loss = losses / weights if weights else math.nan
        return TrainingOutcome(
            samples=len(replica.train_data), loss=loss if math.isfinite(loss) else None
        )

    def _start_round(self, number: int) -> None:
        """Reset the seed, the cursor, the optimizer and the scheduler for a round."""
        replica, seed = self._replica, derive_seed(self.config.seed, number, self._party.name)
        replica.config = replace(self._job_config, seed=seed)
        least = replica.cursor.least
        replica.cursor = Cursor(seed=seed, size=len(replica.train_data), least=least)
        replica.iteration = replica.step = 0
        replica.optimizer = self._new_optimizer()
        replica.scheduler = replica.task.scheduler(replica.optimizer)
        refuse_unsupported(replica.model, replica.optimizer, replica.scheduler)
        self._schedule.start_round(number, replica.optimizer, replica.scheduler, self.config.lr)

    def _new_optimizer(self) -> torch.optim.Optimizer:
        """The job's optimizer, else the Task's; the party's learning rate overrides both."""
        params = self._replica.gradients.params
        if self.config.optimizer is None:
            optimizer = self._replica.task.optimizer(params)
        else:
            optimizer = _make_optimizer(self.config.optimizer, params)
        if self.config.lr is not None:
            for group in optimizer.param_groups:
                group["lr"] = self.config.lr
        return optimizer

    @property
    def _mu(self) -> float:
        return float(self.config.local.get("mu", 0.0))

    def _add_proximal_term(self, global_params: list[Tensor], scale: float) -> None:
        """Add FedProx' mu·(w - w_global) to gradients that are `scale` times their mean."""
        with torch.no_grad():
            params = self._replica.gradients.params
            for param, start in zip(params, global_params, strict=bool(global_params)):
                assert param.grad is not None  # noqa: S101 -- a view into the flat gradients
                param.grad.add_(param - start, alpha=self._mu * scale)


def derive_seed(seed: int, number: int, party: str) -> int:
    """The seed of a party's round, of 63 bits."""
    digest = hashlib.blake2b(f"{seed}/{number}/{party}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def _make_optimizer(
    config: dict[str, Any], params: list[torch.nn.Parameter]
) -> torch.optim.Optimizer:
    name, args = str(config.get("name")), dict(config.get("args") or {})
    cls: Any = getattr(torch.optim, name, None)
    is_optimizer = isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer)
    if not is_optimizer:
        known = [n for n, v in vars(torch.optim).items() if isinstance(v, type)]
        has = ", ".join(sorted(n for n in known if n not in ("Optimizer", "LBFGS")))
        raise TaskInvalid(f"training.optimizer.name is {name!r}; PyTorch has {has}")
    try:
        optimizer: torch.optim.Optimizer = cls(params, lr=config["lr"], **args)
    except (TypeError, ValueError) as error:
        raise TaskInvalid(f"training.optimizer: {name} refuses its arguments: {error}") from None
    return optimizer
