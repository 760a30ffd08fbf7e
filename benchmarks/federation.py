"""Training a Task three ways on this machine: over parties, pooled, and at a single site.

Apart from the accuracies that are computed of it because the tests measure a short one the same
way. The federations are those of `trainyard-trainer federate`: an aggregator here, and a process
for each party.
"""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from trainyard_trainer import local
from trainyard_trainer.contract.config import JobConfig
from trainyard_trainer.contract.env import MODEL_FILE, RESULT_FILE
from trainyard_trainer.contract.exits import Exit
from trainyard_trainer.contract.federated import (
    FederatedConfig,
    OptimizerConfig,
    PartyConfig,
    RoundsConfig,
    StrategyConfig,
)
from trainyard_trainer.federated import local as federated
from trainyard_trainer.task import Task, Tensors, load


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What is trained, and how; the same for all three ways."""

    task: str
    """`module:Class` below the ready-made tasks."""
    args: dict[str, Any] = field(default_factory=dict)
    rounds: int
    local_epochs: int = 1
    batch_size: int
    optimizer: OptimizerConfig | None = None
    seed: int = 0

    @property
    def use(self) -> str:
        """The Task's full name."""
        return f"trainyard_trainer.tasks.{self.task}"


def federate(
    setting: Setting, parties: tuple[PartyConfig, ...], strategy: StrategyConfig, folder: Path
) -> list[dict[str, Any]]:
    """Train over the parties; the history of the rounds, the initial model's first."""
    config = FederatedConfig(
        task=setting.use,
        args=setting.args,
        parties=parties,
        rounds=RoundsConfig(max=setting.rounds, min_parties=len(parties)),
        local_epochs=setting.local_epochs,
        batch_size=setting.batch_size,
        optimizer=setting.optimizer,
        strategy=strategy,
        seed=setting.seed,
    )
    with _quiet() as output:
        code = federated.run(config, folder)
    if code is not Exit.OK:
        raise RuntimeError(f"the federation ended with {code!r}:\n{output.getvalue()}")
    history: list[dict[str, Any]] = json.loads((folder / RESULT_FILE).read_text())["history"]
    return history


def train(setting: Setting, args: dict[str, Any], folder: Path) -> None:
    """Train in one process, as many epochs as a party makes in all rounds; `args` go over all."""
    config = JobConfig(
        task=setting.use,
        args={**setting.args, **args},
        batch_size=setting.batch_size,
        epochs=setting.rounds * setting.local_epochs,
        seed=setting.seed,
    )
    torch.set_num_threads(1)  # The models are small: threads would only wait for each other.
    with _quiet() as output:
        code = local.run(config, 0, folder)
    if code is not Exit.OK:
        raise RuntimeError(f"training ended with {code!r}:\n{output.getvalue()}")


def measure(setting: Setting, args: dict[str, Any], folder: Path, metric: str) -> float:
    """A metric of the model in `folder`, on the held-out rows of the Task with `args`."""
    task: Task = load(setting.use, {**setting.args, **args})
    model = task.model()
    model.load_state_dict(safetensors.torch.load_file(folder / MODEL_FILE))
    model.eval()
    data = task.eval_data()
    assert isinstance(data, Tensors)
    with torch.no_grad():
        return float(task.metrics(model, data.columns)[metric])


@contextlib.contextmanager
def _quiet() -> Any:
    """Capture standard output and error."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        yield output
