"""The ready-made tasks learn, the same way each time, and start from a given model."""

import json
from pathlib import Path

import numpy as np
import pytest

from trainyard_trainer.cli import parse_argument, parse_target
from trainyard_trainer.contract.config import Direction, JobConfig
from trainyard_trainer.contract.exits import Exit
from trainyard_trainer.local import run
from trainyard_trainer.tasks.advection import initial_fields, simulate


def result_of(folder: Path, task: str, **config: object) -> dict[str, float]:
    job = JobConfig(task=f"trainyard_trainer.tasks.{task}", **config)  # type: ignore[arg-type]
    assert run(job, 0, folder) is Exit.OK
    metrics: dict[str, float] = json.loads((folder / "result.json").read_text())["metrics"]
    return metrics


@pytest.mark.parametrize(
    ("task", "config", "metric", "bound"),
    [
        ("digits:Digits", {"epochs": 10, "batch_size": 64}, "eval/accuracy", 0.96),
        ("mnist:Mnist", {"epochs": 8, "batch_size": 64}, "eval/accuracy", 0.93),
        (
            "mnist:Mnist",
            {"epochs": 1, "batch_size": 10, "args": {"momentum": 0.0, "repeat": 4}},
            "eval/accuracy",
            0.92,
        ),
        ("advection:Advection", {"epochs": 8, "batch_size": 32}, "eval/skill", 0.6),
        ("heart:Heart", {"epochs": 20, "batch_size": 4}, "eval/accuracy", 0.70),
        (
            "heart:Heart",
            {"epochs": 20, "batch_size": 4, "args": {"hospital": "budapest"}},
            "eval/accuracy",
            0.75,
        ),
        # Below the cost of refusing every loan (0.7), and the error of one figure for every car.
        ("credit:Credit", {"epochs": 20, "batch_size": 16}, "eval/cost", -0.6),
        ("cars:FuelEconomy", {"epochs": 60, "batch_size": 16}, "eval/mae", -3.0),
    ],
)
def test_a_task_learns(
    tmp_path: Path, task: str, config: dict[str, object], metric: str, bound: float
) -> None:
    found = result_of(tmp_path, task, **config)[metric]
    assert (found if bound > 0 else -found) >= bound


def test_the_same_seed_gives_the_same_model_and_another_does_not(tmp_path: Path) -> None:
    models = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        result_of(tmp_path / name, "digits:Digits", epochs=1, seed=seed)
        models.append((tmp_path / name / "model.safetensors").read_bytes())
    first, again, other = (m[int.from_bytes(m[:8], "little") + 8 :] for m in models)
    assert first == again
    assert first != other


def test_training_starts_from_a_given_model(tmp_path: Path) -> None:
    before = result_of(tmp_path, "digits:Digits", epochs=10, batch_size=64)
    init = str(tmp_path / "model.safetensors")
    after = result_of(tmp_path / "next", "digits:Digits", epochs=1, batch_size=64, init=init)
    assert after["eval/accuracy"] >= before["eval/accuracy"] - 0.02


def test_a_run_that_cannot_start_reports_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = JobConfig(task="trainyard_trainer.tasks.digits:Digit")
    assert run(job, 0, tmp_path) is Exit.TASK_INVALID
    assert "it has Digits" in capsys.readouterr().err


def test_the_simulation_keeps_what_it_must_keep() -> None:
    fields, winds = initial_fields(np.random.default_rng(0), 4, 16)
    later = simulate(fields, winds, 40)
    np.testing.assert_allclose(later.mean(axis=(1, 2)), fields.mean(axis=(1, 2)), atol=1e-4)
    assert np.abs(later).max() <= np.abs(fields).max() + 1e-5
    still = simulate(fields, np.zeros_like(winds), 1)
    assert (still.std(axis=(1, 2)) < fields.std(axis=(1, 2))).all()


def test_arguments_are_json_where_they_are_any() -> None:
    assert parse_argument("hidden=3") == ("hidden", 3)
    assert parse_argument("name=three") == ("name", "three")
    assert parse_target("eval/loss<=0.5").direction is Direction.MIN
    assert parse_target("eval/accuracy=0.97").value == 0.97
