"""Who is measured: the operator, or the bare client; each a process of its own."""

from __future__ import annotations

import contextlib
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import msgspec

from benchmarks import floor
from benchmarks.template import Template
from tests.support.process import OperatorProcess

_START_SECONDS = 60
_SHOWN = 2000
"""Characters of a log that a failure shows."""
_COUNTER = "trainyard_operator_api_requests "


class Subject(Protocol):
    """A process under measurement, ready to act."""

    name: str
    pid: int

    def requests(self) -> float | None:
        """Requests sent so far, where it counts them."""
        ...


class Operator:
    """`python -m trainyard`, as it is installed."""

    name = "operator"

    def __init__(self, process: OperatorProcess, pid: int) -> None:
        self._process, self.pid = process, pid

    def requests(self) -> float | None:
        """Its own metric; watches are not in it."""
        lines = self._process.metrics().splitlines()
        return float(next(line for line in lines if line.startswith(_COUNTER)).split()[1])


class BareClient:
    """`python -m benchmarks.floor`."""

    def __init__(self, pid: int, in_flight: int) -> None:
        self.name, self.pid = f"floor with {in_flight} requests under way", pid

    def requests(self) -> float | None:
        """It does not count."""
        return None


@contextlib.contextmanager
def operator(kubeconfig: Path, namespace: str, folder: Path) -> Iterator[Operator]:
    """Run the operator in the way it runs in a pod: coordinators are reached directly."""
    process = OperatorProcess(
        kubeconfig, namespace, folder / "operator.log", "--reach", "direct", "--log-level", "info"
    )
    process.start()
    try:
        process.wait_until_ready()
        yield Operator(process, process.pid)
    finally:
        process.stop()


@contextlib.contextmanager
def bare_client(
    kubeconfig: Path, template: Template, folder: Path, in_flight: int
) -> Iterator[BareClient]:
    """Run the bare client."""
    path = folder / "template.json"
    path.write_bytes(msgspec.json.encode(template))
    words = [sys.executable, "-m", floor.__name__, "--kubeconfig", str(kubeconfig)]
    words += ["--template", str(path), "--in-flight", str(in_flight)]
    with (folder / "floor.log").open("ab") as log:
        process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=log, start_new_session=True
        )
    try:
        _await_ready(process)
        yield BareClient(process.pid, in_flight)
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
    said = process.stdout.readline().decode().strip()
    if said != floor.READY:
        raise RuntimeError("the bare client ended: see floor.log")
