"""`trainyard-trainer`: what the pods run, and the same training without Kubernetes.

Heavy imports stay inside the commands: the coordinator never loads torch.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from trainyard_trainer import contract
from trainyard_trainer.process import leave_at_once_on_sigterm

STARTED = time.monotonic()
"""About when the process began; a joiner's cost counts from here."""

STATE = os.path.join(contract.STATE_DIR, os.environ.get(contract.ENV_STATE, ""))

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

Tls = Annotated[str, typer.Option(help="Folder of ca.crt, tls.crt and tls.key.")]
LastWords = Annotated[str, typer.Option(help="File for the termination message.")]


def main() -> None:
    """The entry point of the installed command."""
    set_up_logging()
    app()


def set_up_logging() -> None:
    """Log to standard error, where Kubernetes collects it."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )


@app.command()
def coordinator(
    port: Annotated[int, typer.Option(help="Port to serve on.")] = contract.COORDINATOR_PORT,
    state: Annotated[str, typer.Option(help="The job's state directory.")] = STATE,
    tls: Tls = contract.TLS_DIR,
    last_words: LastWords = contract.TERMINATION_LOG,
) -> None:
    """Coordinate one job, as its environment says; what the operator's coordinator pods run."""
    from trainyard_trainer.coordinator import pod

    place = pod.Place(port=port, state=state, tls=tls, last_words=last_words)
    raise typer.Exit(pod.run(os.environ, place))


@app.command()
def worker(tls: Tls = contract.TLS_DIR, last_words: LastWords = contract.TERMINATION_LOG) -> None:
    """Work on one job, as its environment says; what the operator's worker pods run."""
    leave_at_once_on_sigterm(last_words)
    from trainyard_trainer import worker as room

    room.run(os.environ, started=STARTED, tls=tls, last_words=last_words)


@app.command()
def export(
    state: Annotated[str, typer.Option(help="The job's state directory.")] = STATE,
) -> None:
    """Write the final model and its result to standard output, as a tar archive."""
    from trainyard_trainer import export as room

    if refusal := room.export(Path(state), sys.stdout.buffer):
        typer.echo(refusal, err=True)
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
    target: Annotated[str, typer.Option(help="Stop at metric=goal, or metric<=goal.")] = "",
) -> None:
    """Train a Task here, without Kubernetes."""
    from trainyard_trainer import local

    config = contract.JobConfig(
        task=task,
        args=dict(parse_argument(text) for text in arg or ()),
        batch_size=batch_size,
        epochs=epochs,
        seed=seed,
        init=str(Path(init).resolve()) if init else "",
        target=parse_target(target) if target else None,
        min_workers=max(1, workers),
    )
    raise typer.Exit(local.run(config, workers, output))


def parse_argument(text: str) -> tuple[str, Any]:
    """`name=value` with the value as JSON where it is any, else as text."""
    name, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"{text!r} is not name=value")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def parse_target(text: str) -> contract.Target:
    """`metric=goal` for at least, `metric<=goal` for at most."""
    falling = "<=" in text
    metric, _, goal = text.partition("<=" if falling else "=")
    try:
        mode = contract.Goal.MIN if falling else contract.Goal.MAX
        return contract.Target(metric=metric, goal=float(goal), mode=mode)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not metric=goal or metric<=goal") from None
