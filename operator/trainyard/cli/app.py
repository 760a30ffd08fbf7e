"""The command line; each command wraps a function that can be tested without it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from trainyard import __version__
from trainyard.cli.archive import MAX_MODEL_BYTES, FetchError
from trainyard.cli.fetch import fetch, parse_target
from trainyard.cluster.client import KubeClient
from trainyard.cluster.login import LoginError, kubectl_login
from trainyard_trainer.contract.text import one_line

MAX_ERROR = 4000
"""Characters of an error to show."""

app = typer.Typer(
    help="Trainyard: elastic distributed and federated training on Kubernetes.",
    no_args_is_help=True,
    add_completion=False,
)

Kubeconfig = Annotated[
    Path | None,
    typer.Option(help="Default: KUBECONFIG, else ~/.kube/config, else the pod's account."),
]


@app.command("fetch")
def fetch_command(
    job: Annotated[str, typer.Argument(help="dj/NAME or fj/NAME")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Directory to write to.")] = Path(),
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Default: that of the context.")
    ] = None,
    max_size: Annotated[
        int, typer.Option(min=1, help="GiB that the model may have at most.")
    ] = MAX_MODEL_BYTES >> 30,
    kubeconfig: Kubeconfig = None,
    context: Annotated[str | None, typer.Option(help="Context of the kubeconfig.")] = None,
) -> None:
    """Download a job's final model and metrics, even after the job has finished."""
    console = Console(stderr=True)
    try:
        output.mkdir(parents=True, exist_ok=True)
        with console.status(f"fetching {escape(job)}"):
            files = asyncio.run(_fetch(job, output, namespace, kubeconfig, context, max_size << 30))
    except (FetchError, LoginError, OSError) as error:
        # The message may quote a pod: no markup, no control characters.
        console.print("[red]error:[/red]", escape(one_line(str(error), MAX_ERROR)))
        raise typer.Exit(1) from None
    for file in files:
        console.print(escape(f"{file} ({file.stat().st_size:,} bytes)"))


async def _fetch(
    job: str,
    output: Path,
    namespace: str | None,
    kubeconfig: Path | None,
    context: str | None,
    max_bytes: int,
) -> list[Path]:
    login = await kubectl_login(kubeconfig, context, os.environ)
    async with KubeClient(login.configuration) as client:
        return await fetch(
            client, parse_target(job, namespace or login.namespace), output, max_bytes
        )


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def main() -> None:
    """Entry point of `trainyard` and `kubectl-trainyard`."""
    app()
