"""`trainyard-trainer`: what the pods run, and the same training without Kubernetes.

Heavy imports stay inside the commands: the coordinator never loads torch.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from trainyard_trainer.contract import federated
from trainyard_trainer.contract.config import Direction, JobConfig, Target
from trainyard_trainer.contract.env import (
    COORDINATOR_PORT,
    DATA_DIR,
    ENV_STATE,
    STATE_DIR,
    TERMINATION_LOG,
    TLS_DIR,
)
from trainyard_trainer.runtime.exits import exit_at_once_on_sigterm

STARTED = time.monotonic()
"""About when the process began; a joiner's cost counts from here."""

EXTRA = ("torch", "numpy", "safetensors", "prometheus_client")
"""Modules that a local run needs; an installation without the extra `trainer` lacks them."""

STATE = os.path.join(STATE_DIR, os.environ.get(ENV_STATE, ""))

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

Tls = Annotated[str, typer.Option(help="Folder of ca.crt, tls.crt and tls.key.")]
TerminationLog = Annotated[str, typer.Option(help="File for the termination message.")]


def main() -> None:
    """The entry point of the installed command."""
    set_up_logging()
    app()


def set_up_logging() -> None:
    """Log to standard error, where Kubernetes collects it."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )


def prepare_local_run() -> None:
    """Find the Task of the working directory; ends the process where the libraries are missing."""
    search_working_directory()
    if missing := [name for name in EXTRA if importlib.util.find_spec(name) is None]:
        modules = ", ".join(missing)
        extra = "install the package with its extra, trainyard-operator[trainer]"
        typer.echo(f"error: {modules}: no such module here; {extra}", err=True)
        raise typer.Exit(1)


def search_working_directory() -> None:
    """Import from the working directory first, as `python -m` does and a console script does not.

    Like there, `python -P` and PYTHONSAFEPATH prevent it.
    """
    if not sys.flags.safe_path and os.getcwd() not in sys.path[:1]:
        sys.path.insert(0, os.getcwd())


@app.command()
def coordinator(
    port: Annotated[int, typer.Option(help="Port to serve on.")] = COORDINATOR_PORT,
    state: Annotated[str, typer.Option(help="The job's state directory.")] = STATE,
    tls: Tls = TLS_DIR,
    termination_log: TerminationLog = TERMINATION_LOG,
) -> None:
    """Coordinate one job, configured by the environment; run by coordinator pods."""
    from trainyard_trainer.coordinator import process

    options = process.ServeOptions(port=port, state=state, tls=tls, termination_log=termination_log)
    raise typer.Exit(process.run(os.environ, options))


@app.command()
def worker(tls: Tls = TLS_DIR, termination_log: TerminationLog = TERMINATION_LOG) -> None:
    """Train in one job, configured by the environment; run by worker pods."""
    exit_at_once_on_sigterm(termination_log)
    from trainyard_trainer.elastic import worker as process

    process.run(os.environ, started=STARTED, tls=tls, termination_log=termination_log)


@app.command()
def aggregator(
    port: Annotated[int, typer.Option(help="Port to serve on.")] = COORDINATOR_PORT,
    state: Annotated[str, typer.Option(help="The job's state directory.")] = STATE,
    tls: Tls = TLS_DIR,
    termination_log: TerminationLog = TERMINATION_LOG,
) -> None:
    """Aggregate one federation, configured by the environment; run by aggregator pods."""
    from trainyard_trainer.coordinator.process import ServeOptions
    from trainyard_trainer.federated.server import process

    options = ServeOptions(port=port, state=state, tls=tls, termination_log=termination_log)
    raise typer.Exit(process.run(os.environ, options))


@app.command()
def party(
    tls: Tls = TLS_DIR,
    termination_log: TerminationLog = TERMINATION_LOG,
    data: Annotated[str, typer.Option(help="Folder of the party's own data.")] = DATA_DIR,
) -> None:
    """Take part in one federation, configured by the environment; run by party pods."""
    exit_at_once_on_sigterm(termination_log)
    from trainyard_trainer.federated.party import process

    raise typer.Exit(process.run(os.environ, tls=tls, termination_log=termination_log, data=data))


@app.command()
def export(
    state: Annotated[str, typer.Option(help="The job's state directory.")] = STATE,
) -> None:
    """Write the final model and its result to standard output, as a tar archive."""
    from trainyard_trainer.runtime import export as archive

    if error := archive.export(Path(state), sys.stdout.buffer):
        typer.echo(error, err=True)
        raise typer.Exit(1)


@app.command()
def run(
    task: Annotated[str, typer.Argument(help="module:Class of the Task.")],
    epochs: Annotated[int, typer.Option(min=1)] = 1,
    batch_size: Annotated[int, typer.Option(min=1, help="Global batch in samples.")] = 256,
    arg: Annotated[list[str] | None, typer.Option(help="name=value for the Task; repeat.")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Worker processes; 0 for none.")] = 0,
    seed: Annotated[int, typer.Option()] = 0,
    init: Annotated[str, typer.Option(help="A safetensors file to start from.")] = "",
    output: Annotated[Path | None, typer.Option(help="Folder for model and result.")] = None,
    target: Annotated[str, typer.Option(help="Stop at metric=value, or metric<=goal.")] = "",
) -> None:
    """Train a Task here, without Kubernetes."""
    prepare_local_run()
    from trainyard_trainer import local

    config = JobConfig(
        task=task,
        args=_arguments(arg),
        batch_size=batch_size,
        epochs=epochs,
        seed=seed,
        init=str(Path(init).resolve()) if init else "",
        target=parse_target(target) if target else None,
        min_workers=max(1, workers),
    )
    raise typer.Exit(local.run(config, workers, output))


@app.command()
def federate(
    task: Annotated[str, typer.Argument(help="module:Class of the Task.")],
    party: Annotated[
        list[str] | None, typer.Option(help="name, or name:arg=value,… for its Task; repeat.")
    ] = None,
    arg: Annotated[list[str] | None, typer.Option(help="name=value for the Task; repeat.")] = None,
    rounds: Annotated[int, typer.Option(min=1)] = 10,
    min_parties: Annotated[int, typer.Option(min=0, help="Quorum; 0 for all.")] = 0,
    fraction: Annotated[float, typer.Option(help="Of the parties, how many a round asks.")] = 1.0,
    deadline: Annotated[float, typer.Option(min=0.1, help="Seconds of a round.")] = 300.0,
    patience: Annotated[int, typer.Option(min=0, help="Rounds; 0 for no end.")] = 0,
    local_epochs: Annotated[int, typer.Option(min=1)] = 1,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples of a local step.")] = 32,
    optimizer: Annotated[str, typer.Option(help="Class of torch.optim; or the Task's.")] = "",
    lr: Annotated[float, typer.Option(help="Learning rate of --optimizer.")] = 0.01,
    optimizer_arg: Annotated[list[str] | None, typer.Option(help="name=value; repeat.")] = None,
    strategy: Annotated[str, typer.Option(help="FedAvg, FedProx or FedAdam.")] = "FedAvg",
    strategy_arg: Annotated[list[str] | None, typer.Option(help="name=value; repeat.")] = None,
    seed: Annotated[int, typer.Option()] = 0,
    init: Annotated[str, typer.Option(help="A safetensors file to start from.")] = "",
    output: Annotated[Path | None, typer.Option(help="Folder for model and result.")] = None,
    target: Annotated[str, typer.Option(help="Stop at metric=value, or metric<=goal.")] = "",
) -> None:
    """Train a Task over several parties here, without Kubernetes: one process for each."""
    prepare_local_run()
    from trainyard_trainer.federated import local

    parties = tuple(parse_party(text) for text in party or ("a", "b"))
    chosen = federated.OptimizerConfig(name=optimizer, lr=lr, args=_arguments(optimizer_arg))
    config = federated.FederatedConfig(
        task=task,
        args=_arguments(arg),
        parties=parties,
        rounds=federated.RoundsConfig(
            max=rounds,
            min_parties=min_parties or len(parties),
            fraction=fraction,
            deadline_seconds=deadline,
            patience=patience or None,
        ),
        local_epochs=local_epochs,
        batch_size=batch_size,
        optimizer=chosen if optimizer else None,
        strategy=federated.StrategyConfig(name=strategy, args=_arguments(strategy_arg)),
        seed=seed,
        init=str(Path(init).resolve()) if init else "",
        target=parse_target(target) if target else None,
    )
    raise typer.Exit(local.run(config, output))


def parse_party(text: str) -> federated.PartyConfig:
    """`name` or `name:arg=value,arg=value`; the argument `lr` is its learning rate."""
    name, _, rest = text.partition(":")
    args = _arguments(rest.split(",") if rest else None)
    return federated.PartyConfig(name=name, lr=args.pop("lr", None), args=args)


def _arguments(texts: list[str] | None) -> dict[str, Any]:
    return dict(parse_argument(text) for text in texts or ())


def parse_argument(text: str) -> tuple[str, Any]:
    """`name=value` with the value as JSON where it is any, else as text."""
    name, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"{text!r} is not name=value")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def parse_target(text: str) -> Target:
    """`metric=value` for at least, `metric<=goal` for at most."""
    falling = "<=" in text
    metric, _, goal = text.partition("<=" if falling else "=")
    try:
        mode = Direction.MIN if falling else Direction.MAX
        return Target(metric=metric, value=float(goal), direction=mode)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not metric=value or metric<=goal") from None
