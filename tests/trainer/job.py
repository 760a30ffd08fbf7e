"""A job of real processes on this machine, for tests to disturb."""

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from prometheus_client.openmetrics.parser import text_string_to_metric_families

from trainyard_trainer import contract
from trainyard_trainer.contract import JobConfig, LastWords, Metric, Plan, Target

DEADLINE = 60.0
ROOT = Path(__file__).parents[2]

# Workers are forked from a process that has already imported what is slow to import.
forks = get_context("forkserver")
forks.set_forkserver_preload(
    [
        "trainyard_trainer.worker",
        "trainyard_trainer.federated.pod",
        "trainyard_trainer.federated.party",
        "trainyard_trainer.cli",
        "torch._dynamo",
        "tests.trainer.tasks",
        "tests.trainer.faults",
    ]
)


def until(condition: Callable[[], Any], what: str, seconds: float = DEADLINE) -> Any:
    """Wait for `condition` to be true, and return its value."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s: {what}")


def _work(environ: dict[str, str], folder: str, name: str) -> None:
    log = os.open(f"{folder}/{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    started = time.monotonic()
    import torch

    from trainyard_trainer import cli, worker

    torch.set_num_threads(1)
    cli.set_up_logging()
    worker.run(
        environ, started=started, tls=f"{folder}/worker-tls", last_words=f"{folder}/{name}.words"
    )


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


class Job:
    """A coordinator and workers; whatever still runs at the end is killed."""

    def __init__(self, folder: Path, **config: Any) -> None:
        task = config.pop("task", "Line")
        self.folder, self.gate = folder, folder / "gate"
        args = {"gate": str(self.gate), "pace": 0.01, **config.pop("args", {})}
        self.config = JobConfig(
            task=f"tests.trainer.tasks:{task}",
            args=args,
            batch_size=32,
            epochs=100_000,
            target=Target(metric="eval/open", goal=1.0),
            silence_seconds=3.0,
        )
        self.config = replace(self.config, **config)
        self.port, self.term = free_port(), 0
        self.state_name = "state"
        self.tls: ssl.SSLContext | None = None
        self.workers: dict[str, ForkServerProcess] = {}
        self.coordinator: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill_coordinator()
        for worker in self.workers.values():
            worker.kill()
            worker.join()
        if error is not None:
            for log in sorted(self.folder.glob("*.log")):
                print(f"--- {log.name}\n{log.read_text()[-6000:]}")

    def replace_config(self, **changes: Any) -> None:
        self.config = replace(self.config, **changes)

    # --- processes ------------------------------------------------------------------------------

    def start_coordinator(self, *, wait: bool = True) -> None:
        self.term += 1
        environ = {
            **os.environ,
            contract.ENV_NAMESPACE: "test",
            contract.ENV_JOB: "job",
            contract.ENV_TERM: str(self.term),
            contract.ENV_CONFIG: self.config.encode(),
        }
        places = {
            "--port": self.port,
            "--state": self.state,
            "--tls": self.folder / "coordinator-tls",
        }
        places["--last-words"] = self.folder / "coordinator.words"
        options = [str(part) for pair in places.items() for part in pair]
        command = [sys.executable, "-m", "trainyard_trainer", "coordinator", *options]
        with (self.folder / "coordinator.log").open("ab") as log:
            self.coordinator = subprocess.Popen(command, env=environ, stderr=log, stdout=log)
        if wait:
            until(lambda: self.metrics(Metric.TERM) == self.term, "the coordinator answers")

    def kill_coordinator(self) -> None:
        if self.coordinator is not None:
            self.coordinator.kill()
            self.coordinator.wait()

    def start_worker(self, name: str) -> ForkServerProcess:
        environ = {
            contract.ENV_NAMESPACE: "test",
            contract.ENV_JOB: "job",
            contract.ENV_POD: name,
            contract.ENV_POD_IP: "127.0.0.1",
            contract.ENV_NODE: "node",
            contract.ENV_COORDINATOR: f"127.0.0.1:{self.port}",
        }
        worker = forks.Process(target=_work, args=(environ, str(self.folder), name))
        worker.start()
        self.workers[name] = worker
        return worker

    def start(self, *names: str, workers: int | None = None) -> None:
        """A coordinator with a plan for these workers, and them."""
        self.start_coordinator()
        self.plan(workers or len(names))
        for name in names:
            self.start_worker(name)

    def signal(self, name: str, number: int = signal.SIGTERM) -> None:
        pid = self.workers[name].pid
        assert pid is not None
        os.kill(pid, number)

    def exit_of(self, name: str) -> tuple[int, LastWords]:
        """The exit code and last words of a worker that ends now."""
        worker = self.workers.pop(name)
        worker.join(DEADLINE)
        assert worker.exitcode is not None, f"{name} did not end"
        words = LastWords.decode((self.folder / f"{name}.words").read_text())
        assert words is not None
        return worker.exitcode, words

    # --- what an operator does ------------------------------------------------------------------

    @property
    def state(self) -> Path:
        return self.folder / self.state_name

    def request(self, path: str, data: bytes | None = None) -> tuple[int, bytes]:
        scheme = "http" if self.tls is None else "https"
        url = f"{scheme}://127.0.0.1:{self.port}{path}"
        method = "GET" if data is None else "PUT"
        request = urllib.request.Request(url, data=data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=10, context=self.tls) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def put(self, plan: Plan) -> tuple[int, Any]:
        status, body = self.request(contract.PATH_PLAN, plan.encode().encode())
        return status, json.loads(body)

    def plan(self, workers: int, generation: int = 1, **rest: Any) -> Any:
        status, answer = self.put(Plan(generation=generation, workers=workers, **rest))
        assert status == 200, answer
        return answer

    def samples(self) -> Iterator[tuple[str, dict[str, str], float]]:
        try:
            _, body = self.request(contract.PATH_METRICS)
        except OSError:
            return
        for family in text_string_to_metric_families(body.decode()):  # type: ignore[no-untyped-call]
            for sample in family.samples:
                yield sample.name, sample.labels, sample.value

    def metrics(self, name: str, **labels: str) -> float | None:
        for found, its, value in self.samples():
            if found == name and its.items() >= labels.items():
                return value
        return None

    # --- waiting --------------------------------------------------------------------------------

    def await_active(self, count: int) -> None:
        """Wait until exactly `count` workers step together, and have stepped."""
        until(
            lambda: (
                self.metrics(Metric.MEMBERS, state="active") == count
                and not self.metrics(Metric.MEMBERS, state="leaving")
            ),
            f"{count} active workers",
        )
        self.await_steps(5)

    def await_steps(self, count: int) -> None:
        """Wait until `count` more steps are reported."""
        before = self.metrics(Metric.STEP) or 0
        until(lambda: (self.metrics(Metric.STEP) or 0) >= before + count, f"{count} more steps")

    def pulse(self) -> int:
        """When a worker last evaluated, in nanoseconds."""
        return Path(f"{self.gate}.pulse").stat().st_mtime_ns

    def finish(self) -> dict[str, Any]:
        """Open the gate, let all workers end well, and return result.json."""
        self.gate.touch()
        for name in list(self.workers):
            code, words = self.exit_of(name)
            assert (code, words.result) == (0, contract.Result.COMPLETE)
        result: dict[str, Any] = json.loads((self.state / contract.RESULT_FILE).read_text())
        return result
