"""The operator as a real process that a test starts, pauses, stops and kills."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

START_TIMEOUT = timedelta(seconds=40)
"""Imports take two seconds of CPU, which a busy machine may not have for long."""
STOP_TIMEOUT = timedelta(seconds=15)
TAIL_LINES = 60


class OperatorProcess:
    """One `python -m trainyard` at a time, with the same options and log at every start."""

    def __init__(
        self,
        kubeconfig: Path,
        namespace: str,
        log: Path,
        *options: str,
        name: str = "",
        module: str = "trainyard",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.log = log
        hostname = {"HOSTNAME": name} if name else {}
        self._environment = {**os.environ, **hostname, **(environment or {})}
        self.port = free_port()
        self._command = [
            *(sys.executable, "-m", module, "--kubeconfig", str(kubeconfig)),
            *("--http-host", "127.0.0.1", "--http-port", str(self.port)),
            *("--operator-namespace", namespace, *options),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process; `wait_until_ready` returns once it is ready."""
        assert self._process is None, "the operator is already running"
        with self.log.open("ab") as log:
            log.write(b"--- started ---\n")
            log.flush()
            # A session of its own, so that Ctrl-C reaches the tests first.
            self._process = subprocess.Popen(
                self._command,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
            )

    async def start_until_ready(self) -> None:
        """Start it and wait until it acts, while the test's own tasks go on."""
        self.start()
        await asyncio.to_thread(self.wait_until_ready)

    @property
    def is_started(self) -> bool:
        """Whether it was started and neither stopped, killed nor found to have ended since."""
        return self._process is not None

    @property
    def pid(self) -> int:
        """The id of the running process."""
        assert self._process is not None, "the operator was not started"
        return self._process.pid

    def wait_until_ready(self) -> None:
        """Wait until /healthz returns 200, which means that the caches are synced."""
        deadline = time.monotonic() + START_TIMEOUT.total_seconds()
        while self.health() != 200:
            assert self._process is not None, "the operator was not started"
            exit_code = self._process.poll()
            assert exit_code is None, f"the operator exited with {exit_code}:\n{self.tail()}"
            assert time.monotonic() < deadline, f"the operator is not ready:\n{self.tail()}"
            time.sleep(0.05)

    def health(self) -> int:
        """The status code of /healthz; 0 while nothing listens."""
        try:
            self._get("/healthz")
        except urllib.error.HTTPError as error:
            error.close()
            return error.code
        except OSError:
            return 0
        return 200

    def metrics(self) -> str:
        """The text of /metrics."""
        return self._get("/metrics")

    def memory_bytes(self) -> int:
        """The resident memory of the running process."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        [line] = [line for line in status.splitlines() if line.startswith("VmRSS:")]
        return int(line.split()[1]) * 1024

    def cpu_wait_seconds(self) -> float:
        """How long the main thread of the running process has waited for a CPU so far.

        0 if no process runs, and where the kernel does not count it.
        """
        file = Path(f"/proc/{self.pid}/schedstat") if self._process is not None else None
        if file is None or not file.exists():
            return 0.0
        _, nanoseconds, _ = file.read_text().split()
        return int(nanoseconds) / 1e9

    def kill(self) -> None:
        """Send SIGKILL and wait for the exit."""
        self._signal(signal.SIGKILL)

    def pause(self) -> None:
        """Send SIGSTOP."""
        assert self._process is not None, "the operator was not started"
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Send SIGCONT, after `pause`."""
        assert self._process is not None, "the operator was not started"
        self._process.send_signal(signal.SIGCONT)

    def poll(self) -> int | None:
        """The exit code if the process has ended by itself; it can be started again then."""
        code = None if self._process is None else self._process.poll()
        if code is not None:
            self._process = None
        return code

    def stop(self) -> int:
        """Send SIGTERM and return the exit code; does nothing if the process is not started."""
        return self._signal(signal.SIGTERM)

    def tail(self) -> str:
        """The last lines of the log."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join(lines[-TAIL_LINES:])

    def _signal(self, number: signal.Signals) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(number)
        try:
            return process.wait(STOP_TIMEOUT.total_seconds())
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            raise AssertionError(f"the operator ignores {number.name}:\n{self.tail()}") from None

    def _get(self, path: str) -> str:
        url = f"http://127.0.0.1:{self.port}{path}"
        with urllib.request.urlopen(url, timeout=5) as response:
            text: bytes = response.read()
        return text.decode()


def free_port() -> int:
    """A free port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
