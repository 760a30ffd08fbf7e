"""The installed commands as a user types them, each in a process and a directory of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trainyard_trainer.contract.exits import Exit

TRAINER = Path(sys.executable).parent / "trainyard-trainer"
TASK = """
import torch
from torch import nn

from trainyard_trainer.task import Task, Tensors


class Tilted(Task):
    def __init__(self, slope: float = 1.0, weights: list = [1.0, 2.0]) -> None:
        assert [type(n) for n in (slope, *weights)] == [float] * 3, (slope, weights)
        x = torch.linspace(-1.0, 1.0, 64).unsqueeze(1)
        self.data = Tensors(x, slope * x)

    def model(self):
        return nn.Linear(1, 1)

    def train_data(self):
        return self.data

    def loss(self, model, batch):
        return nn.functional.mse_loss(model(batch[0]), batch[1])

    def metrics(self, model, batch):
        return {}
"""


def typed(folder: Path, *args: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the trainer's command in `folder`, which only holds what a user put there."""
    return subprocess.run(
        [TRAINER, *args],
        cwd=folder,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("options", [(), ("--workers", "2")], ids=["alone", "with workers"])
def test_a_task_in_the_working_directory_is_found(tmp_path: Path, options: tuple[str, ...]) -> None:
    (tmp_path / "my_tasks.py").write_text(TASK)
    args = ("--arg", "slope=2", "--arg", "weights=[1, 3]", "--output", "model")
    done = typed(tmp_path, "run", "my_tasks:Tilted", *args, *options)
    assert done.returncode == Exit.OK, done.stderr
    assert json.loads((tmp_path / "model/result.json").read_text())["samples"] == 64


def test_a_federation_finds_a_task_in_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "my_tasks.py").write_text(TASK)
    done = typed(tmp_path, "federate", "my_tasks:Tilted", "--arg", "slope=2", "--rounds", "1")
    assert done.returncode == Exit.OK, done.stderr


@pytest.mark.parametrize("options", [(), ("--workers", "1")], ids=["alone", "with workers"])
def test_a_missing_module_names_the_directories_searched(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    done = typed(tmp_path, "run", "my_task:Tilted", *options)
    assert done.returncode == Exit.TASK_INVALID
    assert f"there is no module 'my_task' in {tmp_path}, " in done.stderr


def test_a_module_that_the_task_imports_is_named(tmp_path: Path) -> None:
    (tmp_path / "my_tasks.py").write_text("import no_such_library\n")
    done = typed(tmp_path, "run", "my_tasks:Tilted")
    assert done.returncode == Exit.TASK_INVALID
    assert "my_tasks needs the module 'no_such_library': install it" in done.stderr
    assert "Traceback" not in done.stderr


def test_safe_path_keeps_the_working_directory_out(tmp_path: Path) -> None:
    (tmp_path / "my_tasks.py").write_text(TASK)
    done = typed(tmp_path, "run", "my_tasks:Tilted", PYTHONSAFEPATH="1")
    assert done.returncode == Exit.TASK_INVALID
    assert str(tmp_path) not in done.stderr
