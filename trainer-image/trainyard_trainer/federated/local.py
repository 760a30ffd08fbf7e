"""A federation on this machine, without Kubernetes: an aggregator here, a process for each party.

It stands apart from the pods' rooms, and uses the same ones: a Task that runs here runs there.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import sys
import tempfile
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
from trainyard_trainer.runtime.exits import describe
from trainyard_trainer.runtime.subprocesses import Processes, run_until_signalled
from trainyard_trainer.transport.tls import Credentials

NAMESPACE, JOB = "local", "run"
LOOK_SECONDS: Final = 0.1


def run(config: FederatedConfig, output: Path | None) -> Exit:
    """Run the rounds, say how they go, and write model and result to `output` when there is one."""
    logging.getLogger("trainyard_trainer").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="trainyard-") as folder:
        try:
            result = run_until_signalled(_federate(config, Path(folder)))
        except Exception as error:
            code, words = describe(error)
            print(words.error, words.traceback, sep="\n", file=sys.stderr)
            return code
        print(summary(result))
        if output is not None:
            output.mkdir(parents=True, exist_ok=True)
            for name in (MODEL_FILE, RESULT_FILE):
                shutil.copyfile(Path(folder) / "state" / name, output / name)
    return Exit.OK


def summary(result: dict[str, Any]) -> str:
    """The result of a federation in a few lines."""
    metrics = [f"{name} = {value:.4f}" for name, value in sorted(result["metrics"].items())]
    counts = ", ".join(f"{name} {count}" for name, count in sorted(result["contributions"].items()))
    rounds = f"round {result['round']} of {result['rounds']}, {result['rounds_lost']} lost"
    return "\n".join([*metrics, f"{rounds}; rounds contributed to: {counts}"])


def line(past: RoundRecord, rounds: int) -> str:
    """A round in one line."""
    parts = [f"round {past.round}/{rounds}", f"{past.parties} parties", f"{past.seconds:.2f} s"]
    if past.loss is not None:
        parts.append(f"loss {past.loss:.4f}")
    parts += [f"{k.removeprefix('eval/')} {v:.4f}" for k, v in past.metrics.items()]
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
    return aggregator.archive.result


async def _watch(aggregator: Aggregator, processes: Processes) -> None:
    """Show each round once its evaluation is in, until the end."""
    console, shown = Console(stderr=True, highlight=False), 0
    while not aggregator.closed.is_set():
        await asyncio.wait({aggregator.ended}, timeout=LOOK_SECONDS)
        if aggregator.ended.done():
            aggregator.ended.result()
        processes.check()
        record = aggregator.course.record
        is_last = aggregator.closed.is_set()
        for past in record.history:
            if shown < past.round and (is_last or past.metrics or past.round < record.round):
                console.print(line(past, aggregator.course.terms.rounds.max))
                shown = past.round


def _environment(party: str, port: int) -> dict[str, str]:
    return {
        ENV_NAMESPACE: NAMESPACE,
        ENV_JOB: JOB,
        ENV_PARTY: party,
        ENV_COORDINATOR: f"127.0.0.1:{port}",
    }
