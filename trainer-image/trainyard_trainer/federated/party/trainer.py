"""A party's side of a round: evaluate the global model, train it, say with what weight.

It stands apart from the network. Training is `replica`'s, with one worker: gradient clipping,
accumulation, autocast and sample weights work as in a DistributedJob. Each round begins with a
fresh optimiser (McMahan et al. 2017), and the order of the data is a function of the job's seed,
the round and the party's name, so a round that is done again gives the same update bit for bit.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import torch
from torch import Tensor

from trainyard_trainer.contract.config import JobConfig, Target
from trainyard_trainer.federated.party.state import ModelState
from trainyard_trainer.federated.protocol.messages import TrainConfig
from trainyard_trainer.runtime.exits import TaskInvalid
from trainyard_trainer.task import Party, load
from trainyard_trainer.training.cursor import Cursor
from trainyard_trainer.training.loop import task_failures
from trainyard_trainer.training.replica import Replica, build, refuse_unsupported


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOutcome:
    """What came of a party's round."""

    samples: int
    """Training samples that it has, which is also its weight."""
    loss: float | None
    """Mean over the round, weighted as the samples are."""


class LocalTrainer:
    """One party's model and data; it stays from round to round."""

    def __init__(self, work: TrainConfig, party: Party, device: torch.device) -> None:
        """Build and warm up the Task; raises TaskInvalid or TaskFailed."""
        self.work, self._party = work, party
        # The goal is the aggregator's business; that the metric exists is checked here.
        target = Target(metric=work.target, value=math.inf) if work.target else None
        config = JobConfig(
            task=work.task,
            args=work.args,
            batch_size=work.batch_size,
            epochs=work.local_epochs,
            seed=work.seed,
            target=target,
        )
        with task_failures():
            task = load(work.task, work.args, party)
        self._replica: Replica = build(task, config, device)
        self._job = config
        self.state = ModelState(self._replica.model)
        with task_failures():
            self._begin(1)  # What the optimiser refuses is known before the first round.

    @property
    def held_out(self) -> int:
        """How many samples it evaluates on."""
        data = self._replica.eval_data
        return 0 if data is None else len(data)

    def adopt(self, work: TrainConfig) -> None:
        """Take over what may change between rounds; other arguments would need another Task."""
        self.work = msgspec.structs.replace(self.work, lr=work.lr)

    def start_from(self, data: bytes) -> None:
        """Take over the job's starting model; raises TaskInvalid when it does not fit."""
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
            trained = self._train(number)
        self.state.pack()
        return trained

    def _train(self, number: int) -> TrainingOutcome:
        replica = self._replica
        self._begin(number)
        anchor = [p.detach().clone() for p in replica.gradients.params] if self._mu else []
        losses = samples = 0.0
        while replica.cursor.epoch < self.work.local_epochs:
            work = replica.compute(0, 1)
            self._pull(anchor, float(work.totals[3] / work.totals[0]))
            replica.commit(work.totals, work)
            replica.is_evaluating = False  # Here a round decides when to evaluate.
            losses += replica.loss * float(work.totals[0])
            samples += float(work.totals[0])
        loss = losses / samples
        return TrainingOutcome(
            samples=len(replica.train_data), loss=loss if math.isfinite(loss) else None
        )

    def _begin(self, number: int) -> None:
        """Make all that is fresh in a round."""
        replica, seed = self._replica, derive(self.work.seed, number, self._party.name)
        replica.config = replace(self._job, seed=seed)
        replica.cursor = Cursor(seed=seed, size=len(replica.train_data))
        replica.iteration = replica.step = 0
        replica.optimizer = self._optimizer()
        replica.scheduler = replica.task.scheduler(replica.optimizer)
        refuse_unsupported(replica)
        self._catch_up(number)

    def _optimizer(self) -> torch.optim.Optimizer:
        """A fresh one: the job's before the Task's, the party's learning rate before both."""
        params = self._replica.gradients.params
        asked = self.work.optimizer
        made = self._replica.task.optimizer(params) if asked is None else _make(asked, params)
        if self.work.lr is not None:
            for group in made.param_groups:
                group["lr"] = self.work.lr
        return made

    def _catch_up(self, number: int) -> None:
        """Move the Task's schedule to where the rounds before have brought it."""
        scheduler = self._replica.scheduler
        if scheduler is None:
            return
        steps = math.ceil(len(self._replica.train_data) / self.work.batch_size)
        with warnings.catch_warnings():
            # The optimiser is fresh: it has made no step, but the rounds before have.
            warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")
            for _ in range((number - 1) * steps * self.work.local_epochs):
                scheduler.step()

    @property
    def _mu(self) -> float:
        return float(self.work.local.get("mu", 0.0))

    def _pull(self, anchor: list[Tensor], scale: float) -> None:
        """Add FedProx' mu·(w - w_global) to gradients that hold `scale` times their mean."""
        with torch.no_grad():
            for param, start in zip(self._replica.gradients.params, anchor, strict=bool(anchor)):
                assert param.grad is not None  # noqa: S101 -- a view into the flat gradients
                param.grad.add_(param - start, alpha=self._mu * scale)


def derive(seed: int, number: int, party: str) -> int:
    """The seed of a party's round: 63 bits that differ for each of them."""
    digest = hashlib.blake2b(f"{seed}/{number}/{party}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def _make(asked: dict[str, Any], params: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    name, args = str(asked.get("name")), dict(asked.get("args") or {})
    cls: Any = getattr(torch.optim, name, None)
    is_optimizer = isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer)
    if not is_optimizer:
        known = [n for n, v in vars(torch.optim).items() if isinstance(v, type)]
        has = ", ".join(sorted(n for n in known if n not in ("Optimizer", "LBFGS")))
        raise TaskInvalid(f"training.optimizer.name is {name!r}; PyTorch has {has}")
    try:
        made: torch.optim.Optimizer = cls(params, lr=asked["lr"], **args)
    except (TypeError, ValueError) as error:
        raise TaskInvalid(f"training.optimizer: {name} refuses its arguments: {error}") from None
    return made
