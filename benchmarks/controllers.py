"""The controllers that are measured: the operator and the bare client, as processes."""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import msgspec

from benchmarks import floor, recorder
from benchmarks.load import PODS
from benchmarks.rights import TREE
from benchmarks.template import Template
from tests.support.process import OperatorProcess

_START_SECONDS = 60
_SHOWN = 2000
"""Characters of a log that a failure shows."""
_COUNTER = "trainyard_operator_api_requests "


class Controller(Protocol):
    """A process under measurement, ready to act."""

    name: str
    pid: int
    pods: int
    """How many pods it makes for a job of the load."""

    def requests(self) -> float | None:
        """Requests sent so far, where it counts them."""
        ...


class Operator:
    """`python -m trainyard`, as it is installed."""

    pods = PODS

    def __init__(self, process: OperatorProcess, name: str) -> None:
        self._process, self.name, self.pid = process, name, process.pid

    def requests(self) -> float | None:
        """Its own metric; watches are not in it."""
        lines = self._process.metrics().splitlines()
        return float(next(line for line in lines if line.startswith(_COUNTER)).split()[1])


class BareClient:
    """`python -m benchmarks.floor`."""

    def __init__(self, pid: int, template: Template, in_flight: int) -> None:
        self.pid, self.pods = pid, template.pods
        self.name = f"floor of {self.pods} pods with {in_flight} requests under way"

    def requests(self) -> float | None:
        """It does not count."""
        return None


@contextlib.contextmanager
def operator(
    kubeconfig: Path,
    namespace: str,
    folder: Path,
    *,
    tree: Path = TREE,
    recording: Path | None = None,
) -> Iterator[Operator]:
    """Run a tree's operator in the way it runs in a pod: coordinators are reached directly.

    With `recording` it writes its requests to that file.
    """
    search_path = [tree / "operator", tree / "trainer-image", TREE]
    environment = {"PYTHONPATH": os.pathsep.join(map(str, search_path))}
    if recording:
        environment[recorder.ENV_FILE] = str(recording)
    process = OperatorProcess(
        kubeconfig,
        namespace,
        folder / "operator.log",
        *("--reach", "direct", "--log-level", "info"),
        module=recorder.__name__ if recording else "trainyard",
        environment=environment,
    )
    process.start()
    try:
        process.wait_until_ready()
        yield Operator(process, "operator" if tree == TREE else f"operator of {tree}")
    finally:
        process.stop()


@contextlib.contextmanager
def bare_client(
    kubeconfig: Path, template: Template, folder: Path, in_flight: int
) -> Iterator[BareClient]:
    """Run the bare client."""
    path = folder / "template.json"
    path.write_bytes(msgspec.json.encode(template))
    command = [sys.executable, "-m", floor.__name__, "--kubeconfig", str(kubeconfig)]
    command += ["--template", str(path), "--in-flight", str(in_flight)]
    with (folder / "floor.log").open("ab") as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, start_new_session=True
        )
    try:
        _await_ready(process)
        yield BareClient(process.pid, template, in_flight)
        if process.poll() is not None:
            raise RuntimeError("the bare client ended early")
    except Exception as error:
        log_text = (folder / "floor.log").read_text(errors="replace")
        error.add_note(f"the bare client's log ends with:\n{log_text[-_SHOWN:]}")
        raise
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def _await_ready(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        deadline = time.monotonic() + _START_SECONDS
        if not selector.select(max(deadline - time.monotonic(), 0.0)):
            raise TimeoutError("the bare client did not start")
    line = process.stdout.readline().decode().strip()
    if line != floor.READY:
        raise RuntimeError("the bare client ended: see floor.log")
