"""The local processes of a job of either kind, and the operator's requests to them."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import ssl
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from prometheus_client.openmetrics.parser import text_string_to_metric_families

from trainyard_trainer.contract.env import ENV_JOB, ENV_NAMESPACE, PATH_METRICS
from trainyard_trainer.contract.exits import Result, TerminationMessage

DEADLINE = 60.0

# Members are forked from a process that has already done the slow imports.
forks = get_context("forkserver")
forks.set_forkserver_preload(
    [
        "trainyard_trainer.elastic.worker",
        "trainyard_trainer.federated.server.process",
        "trainyard_trainer.federated.party.process",
        "trainyard_trainer.cli",
        "torch._dynamo",
        "tests.processes.tasks",
        "tests.processes.faults",
    ]
)


def until(predicate: Callable[[], Any], description: str, seconds: float = DEADLINE) -> Any:
    """Poll `predicate` until its value is true; returns the value."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := predicate():
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s: {description}")


def free_port() -> int:
    """A free port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def log_to(folder: str, name: str) -> None:
    """Redirect this process's output to a log file in the folder."""
    log = os.open(f"{folder}/{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)


class RunningJob(ABC):
    """A coordinator and its members, which are killed at the end of the context."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, self.term = free_port(), 0
        self.tls: ssl.SSLContext | None = None
        """For the operator's requests to the coordinator; None for plain HTTP."""
        self.members: dict[str, ForkServerProcess] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill_coordinator()
        for member in self.members.values():
            member.kill()
            member.join()
        if error is not None:
            for log in sorted(self.folder.glob("*.log")):
                print(f"--- {log.name}\n{log.read_text()[-6000:]}")

    @abstractmethod
    def kill_coordinator(self) -> None:
        """Kill the coordinator, as the loss of its node does."""

    # --- members --------------------------------------------------------------------------------

    def environment(self, **variables: str) -> dict[str, str]:
        """The environment of every pod of the job, with more variables."""
        return {ENV_NAMESPACE: "test", ENV_JOB: "job", **variables}

    def start_member(self, name: str, target: Callable[..., None], environ: dict[str, str]) -> None:
        member = forks.Process(target=target, args=(environ, str(self.folder), name))
        member.start()
        self.members[name] = member

    def signal(self, name: str, number: int = signal.SIGTERM) -> None:
        pid = self.members[name].pid
        assert pid is not None
        os.kill(pid, number)

    def wait_for_exit(self, name: str) -> tuple[int, TerminationMessage]:
        """Wait until a member has exited; returns its exit code and termination message."""
        member = self.members[name]
        member.join(DEADLINE)
        assert member.exitcode is not None, f"{name} did not exit"
        del self.members[name]
        return member.exitcode, self.termination_message_of(name)

    def termination_message_of(self, name: str) -> TerminationMessage:
        message = TerminationMessage.decode((self.folder / f"{name}.termination").read_text())
        assert message is not None
        return message

    def wait_until_complete(self) -> None:
        """Wait until all members have exited with a complete training."""
        for name in list(self.members):
            code, message = self.wait_for_exit(name)
            assert (code, message.result) == (0, Result.COMPLETE)

    # --- the operator's requests ----------------------------------------------------------------

    def request(
        self,
        path: str,
        data: bytes | None = None,
        context: ssl.SSLContext | None = None,
        method: str = "",
    ) -> tuple[int, bytes]:
        tls = context or self.tls
        url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}{path}"
        method = method or ("GET" if data is None else "PUT")
        request = urllib.request.Request(url, data=data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30, context=tls) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def samples(self) -> Iterator[tuple[str, dict[str, str], float]]:
        try:
            _, body = self.request(PATH_METRICS)
        except (OSError, http.client.HTTPException):
            return
        for family in text_string_to_metric_families(body.decode()):  # type: ignore[no-untyped-call]
            for sample in family.samples:
                yield sample.name, sample.labels, sample.value

    def metric(self, name: str, **labels: str) -> float | None:
        for sample, sample_labels, value in self.samples():
            if sample == name and sample_labels.items() >= labels.items():
                return value
        return None
