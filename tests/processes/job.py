"""A DistributedJob of local processes."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.processes.faults import refuse_rendezvous
from tests.processes.running import RunningJob, log_to, until
from trainyard_trainer.contract.config import JobConfig, Target
from trainyard_trainer.contract.env import (
    ENV_CONFIG,
    ENV_COORDINATOR,
    ENV_NODE,
    ENV_POD,
    ENV_POD_IP,
    ENV_TERM,
    PATH_PLAN,
    RESULT_FILE,
)
from trainyard_trainer.contract.metrics import Metric
from trainyard_trainer.contract.plan import Plan

UNREACHABLE = "UNREACHABLE"
"""The variable of a worker that cannot connect to the others."""


def _run_worker(environ: dict[str, str], folder: str, name: str) -> None:
    log_to(folder, name)
    started = time.monotonic()
    is_unreachable = environ.pop(UNREACHABLE, "")
    os.environ |= environ
    if is_unreachable:
        refuse_rendezvous()
    import torch

    from trainyard_trainer import cli
    from trainyard_trainer.elastic import worker

    torch.set_num_threads(1)
    cli.set_up_logging()
    worker.run(
        environ,
        started=started,
        tls=f"{folder}/worker-tls",
        termination_log=f"{folder}/{name}.termination",
    )


class Job(RunningJob):
    """A coordinator and workers."""

    def __init__(self, folder: Path, **config: Any) -> None:
        super().__init__(folder)
        task = config.pop("task", "Line")
        self.gate = folder / "gate"
        args = {"gate": str(self.gate), "pace": 0.01, **config.pop("args", {})}
        self.config = JobConfig(
            task=f"tests.processes.tasks:{task}",
            args=args,
            batch_size=32,
            epochs=100_000,
            target=Target(metric="eval/open", value=1.0),
            silence_seconds=3.0,
        )
        self.config = replace(self.config, **config)
        self.state_name = "state"
        self.workers_port = self.port
        """Where workers connect to: the coordinator, or a proxy before it."""
        self.coordinator: subprocess.Popen[bytes] | None = None

    def replace_config(self, **changes: Any) -> None:
        self.config = replace(self.config, **changes)

    # --- processes ------------------------------------------------------------------------------

    def start_coordinator(self, *, wait: bool = True) -> None:
        self.term += 1
        config = {ENV_TERM: str(self.term), ENV_CONFIG: self.config.encode()}
        environ = {**os.environ, **self.environment(**config)}
        options = {
            "--port": self.port,
            "--state": self.state,
            "--tls": self.folder / "coordinator-tls",
            "--termination-log": self.folder / "coordinator.termination",
        }
        arguments = [str(part) for pair in options.items() for part in pair]
        command = [sys.executable, "-m", "trainyard_trainer", "coordinator", *arguments]
        with (self.folder / "coordinator.log").open("ab") as log:
            self.coordinator = subprocess.Popen(command, env=environ, stderr=log, stdout=log)
        if wait:
            until(lambda: self.metric(Metric.TERM) == self.term, "the coordinator responds")

    def kill_coordinator(self) -> None:
        if self.coordinator is not None:
            self.coordinator.kill()
            self.coordinator.wait()

    def start_worker(
        self, name: str, variables: Mapping[str, str] | None = None, *, unreachable: bool = False
    ) -> None:
        environ = {
            UNREACHABLE: "1" if unreachable else "",
            ENV_POD: name,
            ENV_POD_IP: "127.0.0.1",
            ENV_NODE: "node",
            ENV_COORDINATOR: f"127.0.0.1:{self.workers_port}",
            **(variables or {}),
        }
        self.start_member(name, _run_worker, self.environment(**environ))

    def start(self, *names: str, workers: int | None = None) -> None:
        """Start the coordinator, put a Plan and start the workers."""
        self.start_coordinator()
        self.plan(workers or len(names))
        for name in names:
            self.start_worker(name)

    # --- the operator's plans -------------------------------------------------------------------

    @property
    def state(self) -> Path:
        return self.folder / self.state_name

    def put(self, plan: Plan) -> tuple[int, Any]:
        status, body = self.request(PATH_PLAN, plan.encode().encode())
        return status, json.loads(body)

    def plan(self, workers: int, generation: int = 1, **fields: Any) -> Any:
        status, response = self.put(Plan(generation=generation, workers=workers, **fields))
        assert status == 200, response
        return response

    # --- waiting --------------------------------------------------------------------------------

    def wait_for_active(self, count: int) -> None:
        """Wait until exactly `count` workers step together, and have stepped."""
        until(
            lambda: (
                self.metric(Metric.MEMBERS, state="active") == count
                and not self.metric(Metric.MEMBERS, state="leaving")
            ),
            f"{count} active workers",
        )
        self.wait_for_steps(5)

    def wait_for_steps(self, count: int) -> None:
        """Wait until `count` more steps are reported."""
        before = self.metric(Metric.STEP) or 0
        until(lambda: (self.metric(Metric.STEP) or 0) >= before + count, f"{count} more steps")

    def last_evaluation(self) -> int:
        """The time of the latest evaluation, in nanoseconds."""
        return Path(f"{self.gate}.evaluated").stat().st_mtime_ns

    def finish(self) -> dict[str, Any]:
        """Open the gate, wait until training is complete, and return result.json."""
        self.gate.touch()
        self.wait_until_complete()
        result: dict[str, Any] = json.loads((self.state / RESULT_FILE).read_text())
        return result
