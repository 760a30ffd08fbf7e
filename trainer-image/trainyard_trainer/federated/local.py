"""A federation on this machine, without Kubernetes: an aggregator here, a process for each party.

It runs the same modules as the pods do, so a Task that runs here runs there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from trainyard_trainer.contract.env import (
    ENV_COORDINATOR,
    ENV_JOB,
    ENV_NAMESPACE,
    ENV_PARTY,
    MODEL_FILE,
    RESULT_FILE,
)
from trainyard_trainer.contract.exits import Exit
from trainyard_trainer.contract.federated import FederatedConfig
from trainyard_trainer.federated.rounds.history import RoundRecord
from trainyard_trainer.federated.server.aggregator import Aggregator
from trainyard_trainer.federated.server.http import AggregatorServer
from trainyard_trainer.runtime.exits import TaskInvalid, describe
from trainyard_trainer.runtime.subprocesses import Processes, run_until_signalled
from trainyard_trainer.transport.tls import Credentials

NAMESPACE, JOB = "local", "run"
POLL_SECONDS: Final = 0.1
INIT_FOLDER: Final = "init"


def run(config: FederatedConfig, output: Path | None) -> Exit:
    """Run the rounds with a line for each; write model and result to `output` if it is given."""
    with _warnings_only(), tempfile.TemporaryDirectory(prefix="trainyard-") as folder:
        try:
            config = _with_starting_model(config, Path(folder) / "state")
            result = run_until_signalled(_federate(config, Path(folder)))
        except Exception as error:
            code, message = describe(error)
            print(message.error, message.traceback, sep="\n", file=sys.stderr)
            return code
        print(summary(result))
        if output is not None:
            output.mkdir(parents=True, exist_ok=True)
            for name in (MODEL_FILE, RESULT_FILE):
                shutil.copyfile(Path(folder) / "state" / name, output / name)
    return Exit.OK


def _with_starting_model(config: FederatedConfig, state: Path) -> FederatedConfig:
    """Copy the starting model into the state directory, where an aggregator takes it from."""
    if not config.init:
        return config
    source = Path(config.init)
    if not source.is_file():
        raise TaskInvalid(f"training.init: there is no file {source}")
    (state / INIT_FOLDER).mkdir(parents=True)
    shutil.copyfile(source, state / INIT_FOLDER / source.name)
    return replace(config, init=f"{INIT_FOLDER}/{source.name}")


@contextlib.contextmanager
def _warnings_only() -> Iterator[None]:
    """Keep the log of what the aggregator does from between the rounds' lines."""
    logger = logging.getLogger("trainyard_trainer")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def summary(result: dict[str, Any]) -> str:
    """A summary of the content of result.json."""
    metrics = [f"{name} = {value:.4f}" for name, value in sorted(result["metrics"].items())]
    counts = ", ".join(f"{name} {count}" for name, count in sorted(result["contributions"].items()))
    rounds = f"round {result['round']} of {result['rounds']}, {result['rounds_lost']} lost"
    return "\n".join([*metrics, f"{rounds}; rounds contributed to: {counts}"])


def round_line(record: RoundRecord, rounds: int) -> str:
    """A round in one line."""
    parts = [
        f"round {record.round}/{rounds}",
        f"{record.parties} parties",
        f"{record.seconds:.2f} s",
    ]
    if record.loss is not None:
        parts.append(f"loss {record.loss:.4f}")
    parts += [f"{k.removeprefix('eval/')} {v:.4f}" for k, v in record.metrics.items()]
    return "  ".join(parts)


async def _federate(config: FederatedConfig, folder: Path) -> dict[str, Any]:
    credentials = Credentials(namespace=NAMESPACE, job=JOB, directory=str(folder / "tls"))
    aggregator = Aggregator(config, 1, folder / "state")
    async with (
        AggregatorServer(aggregator, credentials).serving("127.0.0.1", 0) as port,
        Processes(folder) as processes,
    ):
        for party in config.parties:
            with (folder / f"{party.name}.log").open("wb") as log:
                environ = _environment(party.name, port)
                await processes.start(f"party {party.name}", "party", environ, log)
        await _watch(aggregator, processes)
        await aggregator.wait_for_parties()
    return aggregator.store.result


async def _watch(aggregator: Aggregator, processes: Processes) -> None:
    """Print each round once it is evaluated, until the end."""
    console, shown = Console(stderr=True, highlight=False), 0
    while not aggregator.closed.is_set():
        await asyncio.wait({aggregator.ended}, timeout=POLL_SECONDS)
        if aggregator.ended.done():
            aggregator.ended.result()
        processes.check()
        history = aggregator.machine.history
        is_last = aggregator.closed.is_set()
        for record in history.rounds:
            is_over = is_last or record.metrics or record.round < history.round
            if shown < record.round and is_over:
                console.print(round_line(record, aggregator.machine.settings.rounds.max))
                shown = record.round


def _environment(party: str, port: int) -> dict[str, str]:
    return {
        ENV_NAMESPACE: NAMESPACE,
        ENV_JOB: JOB,
        ENV_PARTY: party,
        ENV_COORDINATOR: f"127.0.0.1:{port}",
    }
