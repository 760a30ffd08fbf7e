"""One worker's copy of the training state, with its two operations: compute and commit.

A replica is told its rank and the world size for one iteration, contributes its share, and commits
the sums over all replicas. What it commits is a function of those sums and of state that all
replicas share, so replicas stay equal bit for bit.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

import numpy as np
import safetensors
import torch
from torch import Tensor

from trainyard_trainer.contract.config import JobConfig
from trainyard_trainer.contract.encoding import finite
from trainyard_trainer.contract.plan import Plan
from trainyard_trainer.contract.text import encodable
from trainyard_trainer.runtime.exits import TaskFailed, TaskInvalid
from trainyard_trainer.task import Batch, Task, fetch
from trainyard_trainer.training import buffers, snapshot
from trainyard_trainer.training.batches import move, weigh
from trainyard_trainer.training.checks import (
    refuse_lazy,
    refuse_unsupported,
    refuse_unsupported_data,
)
from trainyard_trainer.training.cursor import (
    Audit,
    Cursor,
    Positions,
    bounds,
    fingerprint,
    fingerprint_of_all,
    halves,
    mix,
    share,
)
from trainyard_trainer.training.gradients import Gradients

TRAIN_SUMS: Final = ("samples", "low", "high", "weight", "loss")
"""The totals of a training step: samples, halves of their fingerprints, weight, weighted loss."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """One worker's contribution to an iteration, to be summed over all workers."""

    totals: Tensor
    """float64 vector: `TRAIN_SUMS`, or of each metric the weighted sum and the weight."""
    gradients: list[Tensor] = field(default_factory=list)
    """Flat buffers, reduced in place."""
    buffers: list[Tensor] = field(default_factory=list)
    """Copies of the model's buffers as bytes; rank 0, which always has samples, broadcasts its."""


class Replica:
    """Model, optimizer, scheduler, cursor and audit: the state that all workers share."""

    def __init__(self, task: Task, config: JobConfig, device: torch.device) -> None:
        """Build the task's model and data; raises TaskInvalid for what is not supported."""
        self.task, self.config, self.device = task, config, device
        torch.manual_seed(config.seed)
        self.model = task.model().to(device)
        refuse_lazy(self.model)
        self.gradients = Gradients(self.model.parameters())
        self.optimizer = task.optimizer([p for p in self.model.parameters() if p.requires_grad])
        self.scheduler = task.scheduler(self.optimizer)
        self.train_data, self.eval_data = task.train_data(), task.eval_data()
        refuse_unsupported(self.model, self.optimizer, self.scheduler)
        refuse_unsupported_data(task, self.train_data, self.eval_data)
        self.cursor = Cursor(seed=config.seed, size=len(self.train_data))
        self.audit = Audit()
        self.iteration = self.step = self.samples = 0
        self.loss = float("nan")
        self.non_finite_steps = 0
        """Consecutive steps, up to the last, whose loss was not finite."""
        self.metrics: dict[str, float] = {}
        self.is_evaluating = False
        self.is_over = False
        self.plan: Plan | None = None
        self.notes: dict[str, Any] = {}
        """Each worker's own measurements: saved with the state, but not part of its digest."""
        self.metric_names: list[str] = []
        self._buffers_before: list[Tensor] = []
        self._fingerprint = fingerprint_of_all(self.cursor.size)

    @property
    def batch_size(self) -> int:
        """The global batch in force, in samples."""
        planned = (self.plan and self.plan.batch_size) or self.config.batch_size
        return max(planned, self.cursor.least)

    # --- compute -----------------------------------------------------------------------------

    def warm_up(self) -> None:
        """One forward and backward pass on a few samples, so that the first iteration starts warm.

        Changes no state. Raises TaskInvalid for gradients that cannot be reduced.
        """
        names, self._buffers_before = buffers.names(self.model), buffers.copies(self.model)
        self._find_least_share()
        ids = np.arange(min(self.cursor.size, 8), dtype=np.int64)
        self._backward(ids, 1.0)
        self.gradients.check()
        if self.eval_data is not None:
            few = np.arange(min(len(self.eval_data), 8), dtype=np.int64)
            weight, means = self._evaluate(few)
            if not weight:
                # Weights decide what counts, not which metrics there are.
                means = self._metrics_of_nothing(few)
            self.metric_names = sorted(means)
            self.metrics = self._summarize(means)
        self._check_target()
        self.metrics = {}
        buffers.check(self.model, names)
        buffers.load_unchanged(self.model, self._buffers_before)
        self._buffers_before = []
        self.undo()
        self._check_storable()

    def _find_least_share(self) -> None:
        """Whether the model can train on one sample; BatchNorm, for one, needs two.

        Raises TaskInvalid where there are never two.
        """
        try:
            self._backward(np.zeros(1, dtype=np.int64), 1.0)
        except Exception as error:
            self.cursor = replace(self.cursor, least=2)
            if self.config.batch_size < 2 or self.cursor.size < 2:
                self._backward(np.zeros(2, dtype=np.int64), 1.0)  # Any other error raises here.
                raise TaskInvalid(
                    f"the model cannot train on a single sample ({error}): training.batchSize and "
                    "the number of samples must be 2 or more"
                ) from error

    def compute(self, rank: int, size: int) -> Contribution:
        """This worker's contribution to the next iteration."""
        if self.is_evaluating:
            return self._compute_evaluation(rank, size)
        positions = self.cursor.batch(self.batch_size)
        ids = self.cursor.ids(share(positions, rank, size, self.cursor.least))
        self._buffers_before = buffers.copies(self.model)
        # A function of shared state, so that a retried iteration draws the same numbers.
        words = np.array([self.config.seed & (2**63 - 1), self.iteration, rank], dtype=np.uint64)
        torch.manual_seed(int(mix(mix(mix(words[:1]) ^ words[1:2]) ^ words[2:])[0] >> np.uint64(1)))
        weight, loss = self._backward(ids, 1.0 / len(positions))
        low, high = halves(fingerprint(ids))
        totals = torch.tensor([len(ids), low, high, weight, loss], dtype=torch.float64)
        self.gradients.check()
        own = buffers.copies(self.model)
        buffers.check_sizes(self.model, self._buffers_before, own)
        return Contribution(totals=totals, gradients=self.gradients.flat, buffers=own)

    def _backward(self, ids: Positions, scale: float) -> tuple[float, float]:
        """Add the gradients of Σ scale·weight·loss over `ids`; the sums of weight and of loss."""
        self.model.train()
        self.gradients.zero()
        weights = losses = 0.0
        pieces = min(self.task.accumulate, max(len(ids) // self.cursor.least, 1))
        for piece in np.array_split(ids, pieces):
            if len(piece):
                batch = self._fetch(self.train_data, piece)
                with self._autocast():
                    loss = self.task.loss(self.model, batch)
                weighted, weight = weigh(loss, self.task.weights(batch), len(piece))
                if weight == 0.0:
                    continue
                (weighted * scale).backward()  # type: ignore[no-untyped-call]
                weights += weight
                losses += float(weighted.detach())
        return weights, losses

    def _compute_evaluation(self, rank: int, size: int) -> Contribution:
        assert self.eval_data is not None  # noqa: S101 -- set where evaluations are scheduled
        begin, end = bounds(len(self.eval_data), rank, size)
        sums = {name: [0.0, 0.0] for name in self.metric_names}
        for start in range(begin, end, self.batch_size):
            stop = min(end, start + self.batch_size)
            weight, means = self._evaluate(np.arange(start, stop, dtype=np.int64))
            for name, value in means.items():
                if name not in sums:
                    raise TaskInvalid(
                        f"metrics returned {name!r} for some batches only, and not for the first "
                        "samples of eval_data: return it there as well, as all workers must know it"
                    )
                sums[name][0] += value * weight
                sums[name][1] += weight
        flat = [number for pair in sums.values() for number in pair]
        return Contribution(totals=torch.tensor(flat, dtype=torch.float64))

    def _evaluate(self, ids: Positions) -> tuple[float, dict[str, float]]:
        """The weight of the samples `ids` and their means; no means where they weigh nothing."""
        self.model.eval()
        with torch.no_grad(), self._autocast():
            batch = self._fetch(self.eval_data, ids)
            loss = self.task.loss(self.model, batch)
            weighted, weight = weigh(loss, self.task.weights(batch), len(ids))
            if weight == 0.0:
                return 0.0, {}
            metrics = self.task.metrics(self.model, batch)
        means = {name: float(value) for name, value in metrics.items()}
        return weight, {"loss": float(weighted) / weight, **means}

    def _metrics_of_nothing(self, ids: Positions) -> dict[str, float]:
        """The means' names where the samples `ids` weigh nothing."""
        self.model.eval()
        with torch.no_grad(), self._autocast():
            metrics = self.task.metrics(self.model, self._fetch(self.eval_data, ids))
        return {"loss": math.nan, **dict.fromkeys(metrics, math.nan)}

    def _fetch(self, data: Any, ids: Positions) -> Batch:
        return move(fetch(self.task, data, ids.tolist()), self.device)

    def _autocast(self) -> Any:
        dtype = self.task.autocast
        return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype=dtype)

    # --- commit ------------------------------------------------------------------------------

    def commit(self, totals: Tensor, work: Contribution) -> None:
        """Apply the iteration's totals over all workers to the state."""
        sums = totals.tolist()
        if self.is_evaluating:
            self._commit_evaluation(sums)
        else:
            self._commit_step(sums, work)
        self.iteration += 1
        self._buffers_before = []

    def _commit_step(self, sums: list[float], work: Contribution) -> None:
        samples, low, high, weight, loss = sums
        buffers.load(self.model, work.buffers)
        if weight != 0.0:  # All workers have the same sum, so all of them pass the batch over.
            self._apply_gradients(weight)
            self.loss = loss / weight
            self.non_finite_steps = 0 if math.isfinite(self.loss) else self.non_finite_steps + 1
        if self.scheduler is not None:
            with warnings.catch_warnings():
                # It counts batches; the first ones may have been passed over.
                warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")
                self.scheduler.step()
        self.step += 1
        if self.step == 1:
            self._check_storable()  # Most optimizers have no state before their first step.
        self.samples += int(samples)
        self.audit = self.audit.add(int(samples), int(low), int(high))
        epoch = self.cursor.epoch
        self.cursor = self.cursor.advance(self.batch_size)
        if self.cursor.epoch > epoch:
            self.audit = self.audit.close(self.cursor.size, self._fingerprint)
            self.is_evaluating = self.eval_data is not None
            self.is_over = not self.is_evaluating and self.cursor.epoch >= self.config.epochs

    def _apply_gradients(self, weight: float) -> None:
        # `_backward` has scaled by the batch already, to keep half precision in its range.
        self.gradients.divide(weight / len(self.cursor.batch(self.batch_size)))
        if self.task.clip_norm is not None:
            self.gradients.clip(self.task.clip_norm)
        self.optimizer.step()

    def _commit_evaluation(self, sums: list[float]) -> None:
        pairs = zip(self.metric_names, sums[::2], sums[1::2], strict=True)
        # A metric that no batch had is not a number, so that no target is reached by it.
        means = {name: v / weight if weight else math.nan for name, v, weight in pairs}
        self.metrics = self._summarize(means)
        self.is_evaluating = False
        target = self.config.target
        reached = target is not None and target.reached(self.metrics[target.metric])
        self.is_over = reached or self.cursor.epoch >= self.config.epochs

    def _summarize(self, means: Mapping[str, float]) -> dict[str, float]:
        # A name made of a file's name may be no UTF-8, which neither metrics nor messages hold.
        summary = self.task.summary(means).items()
        return {f"eval/{encodable(name)}": float(value) for name, value in summary}

    def _check_target(self) -> None:
        target = self.config.target
        if target is not None and target.metric not in self.metrics:
            has = ", ".join(sorted(self.metrics)) or "nothing, since it has no eval_data"
            raise TaskInvalid(
                f"training.target.metric is {target.metric!r}, but the task evaluates {has}"
            )

    def undo(self) -> None:
        """Undo the effects of an iteration that was computed but not committed."""
        if self._buffers_before:
            buffers.load(self.model, self._buffers_before)
        self._buffers_before = []
        self.gradients.renew()

    # --- state -------------------------------------------------------------------------------

    def tensors(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All tensors of the state by name, and the JSON skeletons of what held them."""
        tensors = {f"model.{k}": v for k, v in snapshot.model_tensors(self.model).items()}
        optimizer = snapshot.flatten(self.optimizer.state_dict(), "optimizer", tensors)
        state = None if self.scheduler is None else self.scheduler.state_dict()
        scheduler = snapshot.flatten(state, "scheduler", tensors)
        return tensors, {"optimizer": optimizer, "scheduler": scheduler}

    def _check_storable(self) -> None:
        """Raise TaskInvalid when the state of optimizer or scheduler cannot be stored."""
        try:
            self.tensors()
        except TypeError as error:
            raise TaskInvalid(
                f"{error}: the state of optimizer and scheduler must be made of tensors, numbers, "
                "text, lists, tuples and dictionaries (for a schedule of schedules, SequentialLR)"
            ) from None

    def encode(self) -> bytes:
        """The whole state as a safetensors file."""
        tensors, skeletons = self.tensors()
        counts = finite({name: getattr(self, name) for name in COUNTS})
        plan = None if self.plan is None else self.plan.encode()
        document = {
            **skeletons,
            "counts": counts,
            "finite": self.is_finite,
            "cursor": asdict(self.cursor),
            "audit": asdict(self.audit),
            "plan": plan,
            "notes": self.notes,
        }
        return snapshot.encode(tensors, document)

    def restore(self, data: bytes) -> None:
        """Take over the state that `encode` wrote; raises ValueError when it does not fit."""
        tensors, document = snapshot.decode(data)
        model = {k[6:]: v for k, v in tensors.items() if k.startswith("model.")}
        snapshot.load_model(self.model, model, "the state")
        snapshot.load_optimizer(self.optimizer, snapshot.unflatten(document["optimizer"], tensors))
        if self.scheduler is not None:
            self.scheduler.load_state_dict(snapshot.unflatten(document["scheduler"], tensors))
        cursor = document["cursor"]
        own = {"debt": tuple(cursor["debt"]), "least": self.cursor.least}
        self.cursor = Cursor(**{**cursor, **own})
        self.audit = Audit(**document["audit"])
        self._restore_counts(document["counts"])
        self.plan = None if document["plan"] is None else Plan.decode(document["plan"])
        self.notes = document["notes"]
        self._buffers_before = []
        self.gradients.renew()

    def _restore_counts(self, counts: Mapping[str, Any]) -> None:
        for name in COUNTS:
            setattr(self, name, counts.get(name, 0))
        self.loss = _number(counts["loss"])
        self.metrics = {name: _number(value) for name, value in counts["metrics"].items()}

    @property
    def is_finite(self) -> bool:
        """Whether the last loss and all parameters are finite; reads every parameter."""
        return self.non_finite_steps == 0 and all(
            bool(torch.isfinite(param).all()) for param in self.gradients.params
        )

    def start_from(self, data: bytes, source: str) -> None:
        """Take over the model of a safetensors file; raises TaskInvalid when it does not fit."""
        try:
            snapshot.load_model(self.model, snapshot.load_model_file(data, source), source)
        except (ValueError, AttributeError, safetensors.SafetensorError) as error:
            raise TaskInvalid(f"training.init: {error}") from None

    def digest(self) -> str:
        """A short digest of the state: equal on all workers after the same iteration."""
        tensors, _ = self.tensors()
        return f"{self.iteration}-{snapshot.digest(tensors)}"


COUNTS: Final = (
    *("iteration", "step", "samples", "loss", "non_finite_steps"),
    *("metrics", "is_evaluating", "is_over"),
)
"""The attributes of a Replica that are plain JSON."""


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def build(task: Task, config: JobConfig, device: torch.device) -> Replica:
    """A warm replica; what the user's code raises becomes TaskFailed."""
    try:
        replica = Replica(task, config, device)
        replica.warm_up()
    except TaskInvalid:
        raise
    except Exception as error:
        raise TaskFailed(f"the task failed as it was built: {error}") from error
    return replica
