"""`python -m benchmarks.accuracy`: what federations reach, beside pooled and local training."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.federation import Setting, federate, measure, train
from trainyard_trainer.contract.federated import OptimizerConfig, PartyConfig, StrategyConfig
from trainyard_trainer.tasks.heart import HOSPITALS

ACCURACY = "accuracy"
HEART_STRATEGIES = {
    "FedAvg": StrategyConfig(name="FedAvg"),
    "FedProx, mu 0.1": StrategyConfig(name="FedProx", args={"mu": 0.1}),
    "FedAdam, lr 0.1": StrategyConfig(name="FedAdam", args={"lr": 0.1}),
    "FedAdam, lr 0.03": StrategyConfig(name="FedAdam", args={"lr": 0.03}),
}
MNIST_TARGETS = (0.90, 0.92, 0.94)
DIRICHLET = {"partition": "Dirichlet", "alpha": 0.1}
MNIST_CASES: dict[str, tuple[int, dict[str, Any], StrategyConfig]] = {
    "IID, 4 parties, FedAvg": (4, {"partition": "IID"}, StrategyConfig()),
    "2 shards, 10 parties, FedAvg": (10, {"partition": "Shards", "shards": 2}, StrategyConfig()),
    "Dirichlet 0.1, 4 parties, FedAvg": (4, DIRICHLET, StrategyConfig()),
    "Dirichlet 0.1, 4 parties, FedProx, mu 0.1": (
        4,
        DIRICHLET,
        StrategyConfig(name="FedProx", args={"mu": 0.1}),
    ),
    "Dirichlet 0.1, 4 parties, FedAdam, lr 0.01": (
        4,
        DIRICHLET,
        StrategyConfig(name="FedAdam", args={"lr": 0.01}),
    ),
}

console = Console(highlight=False)


def main(
    splits: Annotated[int, typer.Option(help="Splits of the heart data.", min=1)] = 5,
    rounds: Annotated[int, typer.Option(help="Rounds on MNIST.", min=1)] = 50,
    only: Annotated[str, typer.Option(help="heart or mnist; both without.")] = "",
) -> None:
    """Train with real aggregator and party processes, and print the accuracies."""
    results: dict[str, Any] = {}
    if only != "mnist":
        results["heart"] = heart(splits)
    if only != "heart":
        results["mnist"] = mnist(rounds)
    print(json.dumps(results))


def heart(splits: int) -> dict[str, Any]:
    """Accuracy on the four hospitals' held-out patients, of each model, over the splits."""
    runs = [dict(_heart(split)) for split in range(splits)]
    table = Table("model", "all patients", *HOSPITALS, title=f"Heart, mean of {splits} splits")
    results = {}
    for model in runs[0]:
        columns = {site: [run[model][site] for run in runs] for site in ("all", *HOSPITALS)}
        results[model] = {site: mean(values) for site, values in columns.items()}
        results[model]["deviation"] = stdev(columns["all"]) if splits > 1 else 0.0
        table.add_row(model, *(f"{results[model][site]:.3f}" for site in columns))
    console.print(table)
    return results


def _heart(split: int) -> Iterator[tuple[str, dict[str, float]]]:
    """Each model's name, and its accuracy on all patients and on each hospital's."""
    setting = Setting(
        task="heart:Heart", args={"split": split}, rounds=15, local_epochs=2, batch_size=4
    )
    parties = tuple(PartyConfig(name=hospital) for hospital in HOSPITALS)
    with tempfile.TemporaryDirectory(prefix="trainyard-accuracy-") as path:
        folder = Path(path)
        train(setting, {}, folder)
        yield "pooled", _by_hospital(setting, folder)
        for name, strategy in HEART_STRATEGIES.items():
            federate(setting, parties, strategy, folder)
            yield name, _by_hospital(setting, folder)
        for hospital in HOSPITALS:
            train(setting, {"hospital": hospital}, folder)
            yield f"{hospital} alone", _by_hospital(setting, folder)


def _by_hospital(setting: Setting, folder: Path) -> dict[str, float]:
    figures = {"all": measure(setting, {}, folder, ACCURACY)}
    for hospital in HOSPITALS:
        figures[hospital] = measure(setting, {"hospital": hospital}, folder, ACCURACY)
    return figures


def mnist(rounds: int) -> dict[str, Any]:
    """Accuracy on the common test images, and the rounds until it was first reached."""
    sgd = OptimizerConfig(name="SGD", lr=0.1)
    args = {"lr": sgd.lr, "momentum": 0.0}
    table = Table("data, strategy", "last", "best", *map(str, MNIST_TARGETS), title="MNIST-5k")
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="trainyard-accuracy-") as path:
        folder = Path(path)
        pooled = Setting(task="mnist:Mnist", args=args, rounds=30, batch_size=10)
        train(pooled, {}, folder)
        results["pooled"] = {"last": measure(pooled, {}, folder, ACCURACY)}
        table.add_row("pooled, 30 epochs", f"{results['pooled']['last']:.3f}")
        for name, (count, division, strategy) in MNIST_CASES.items():
            setting = Setting(
                task="mnist:Mnist",
                args={**args, **division, "parts": count},
                rounds=rounds,
                batch_size=10,
                optimizer=sgd,
            )
            parties = tuple(
                PartyConfig(name=f"party-{part:02}", args={"part": part}) for part in range(count)
            )
            history = federate(setting, parties, strategy, folder)
            results[name] = _summary([past["metrics"]["eval/accuracy"] for past in history])
            reached = results[name]["rounds_to"].values()
            figures = (f"{results[name][key]:.3f}" for key in ("last", "best"))
            table.add_row(name, *figures, *(str(r or "–") for r in reached))
    console.print(table)
    return results


def _summary(accuracies: list[float]) -> dict[str, Any]:
    """Last, best and rounds to each target, of accuracies that begin with the initial model's."""
    rounds_to = {
        str(goal): next((number for number, a in enumerate(accuracies) if a >= goal), None)
        for goal in MNIST_TARGETS
    }
    return {"last": accuracies[-1], "best": max(accuracies), "rounds_to": rounds_to}


if __name__ == "__main__":
    typer.run(main)
