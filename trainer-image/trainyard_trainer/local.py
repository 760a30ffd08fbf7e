"""Training on this machine, without Kubernetes: in one process, or with a coordinator and workers.

It runs the same code as the pods do, so a Task that runs here runs there.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from trainyard_trainer.contract.config import JobConfig
from trainyard_trainer.contract.env import (
    ENV_COORDINATOR,
    ENV_JOB,
    ENV_NAMESPACE,
    ENV_NODE,
    ENV_POD,
    ENV_POD_IP,
    MODEL_FILE,
    RESULT_FILE,
)
from trainyard_trainer.contract.exits import Exit
from trainyard_trainer.contract.plan import Plan
from trainyard_trainer.display import Display, TrainingState, showing, summary
from trainyard_trainer.runtime.checkpoint import write_atomically
from trainyard_trainer.runtime.exits import describe, divergence
from trainyard_trainer.runtime.subprocesses import Processes, run_until_signalled

NAMESPACE, JOB = "local", "run"
LOOK_SECONDS = 0.2


def run(config: JobConfig, workers: int, output: Path | None) -> Exit:
    """Train, print a summary, and write model and result to `output` if given."""
    try:
        with showing(config.epochs) as display:
            if workers:
                model, result = run_with_workers(config, workers, display)
            else:
                model, result = run_alone(config, display)
    except Exception as error:
        code, message = describe(error)
        print(message.error, message.traceback, sep="\n", file=sys.stderr)
        return code
    print(summary(result))
    if sentence := divergence(result):
        print(sentence, file=sys.stderr)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        write_atomically(output / MODEL_FILE, model)
        text = json.dumps(result, indent=1, allow_nan=False)
        write_atomically(output / RESULT_FILE, text.encode())
    return Exit.OK


def run_alone(config: JobConfig, display: Display) -> tuple[bytes, dict[str, Any]]:
    """Train in this process; returns the model file and the content of result.json."""
    from trainyard_trainer.task import load
    from trainyard_trainer.training import loop
    from trainyard_trainer.training.device import choose_device
    from trainyard_trainer.training.replica import Replica, build
    from trainyard_trainer.training.result import final_model, result

    class Watch:
        def committed(self, replica: Replica, *_: object) -> None:
            display.show(TrainingState.of(replica))

    replica = build(load(config.task, config.args), config, choose_device())
    replica.notes["born_at"] = time.time()
    if config.init:
        replica.start_from(Path(config.init).read_bytes(), config.init)
    loop.train(replica, loop.SingleReplica(replica), Watch())
    return final_model(replica), result(replica)


def run_with_workers(
    config: JobConfig, workers: int, display: Display
) -> tuple[bytes, dict[str, Any]]:
    """Train with `workers` processes and a coordinator in this one: model file and result."""
    with tempfile.TemporaryDirectory(prefix="trainyard-") as directory:
        return run_until_signalled(_coordinate(config, workers, display, Path(directory)))


async def _coordinate(
    config: JobConfig, workers: int, display: Display, directory: Path
) -> tuple[bytes, dict[str, Any]]:
    from trainyard_trainer.coordinator.server import Coordinator
    from trainyard_trainer.transport.tls import Credentials

    credentials = Credentials(namespace=NAMESPACE, job=JOB, directory=str(directory / "tls"))
    coordinator = Coordinator(config, 1, directory / "state", credentials)
    coordinator.members.set_plan(Plan(generation=1, workers=workers))
    async with (
        coordinator.serving("127.0.0.1", 0) as port,
        Processes(directory) as processes,
    ):
        for index in range(workers):
            await processes.start(
                f"worker {index}", "worker", _environment(index, port), sys.stderr
            )
        while not coordinator.members.training_ended.is_set():
            await asyncio.sleep(LOOK_SECONDS)
            display.show(TrainingState.of(coordinator.progress.report))
            processes.check()
        await coordinator.wait_for_workers()
    model = (directory / "state" / MODEL_FILE).read_bytes()
    return model, coordinator.result


def _environment(index: int, port: int) -> dict[str, str]:
    return {
        ENV_NAMESPACE: NAMESPACE,
        ENV_JOB: JOB,
        ENV_POD: f"worker-{index}",
        ENV_POD_IP: "127.0.0.1",
        ENV_NODE: "local",
        ENV_COORDINATOR: f"127.0.0.1:{port}",
    }
