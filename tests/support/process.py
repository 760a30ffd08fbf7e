"""The operator as a real process, beside a kubeconfig: started, watched, asked to stop, killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from datetime import timedelta
from pathlib import Path

START = timedelta(seconds=40)
"""Importing takes two seconds of CPU, and a busy machine has less than one to give."""
END = timedelta(seconds=15)
SHOWN_LINES = 60


class OperatorProcess:
    """One `python -m trainyard` at a time, always with the same options and the same log."""

    def __init__(
        self, kubeconfig: Path, namespace: str, log: Path, *options: str, name: str = ""
    ) -> None:
        self.log = log
        self._environment = {**os.environ, **({"HOSTNAME": name} if name else {})}
        self.port = free_port()
        self._command = [
            *(sys.executable, "-m", "trainyard", "--kubeconfig", str(kubeconfig)),
            *("--http-host", "127.0.0.1", "--http-port", str(self.port)),
            *("--operator-namespace", namespace, *options),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; `wait_until_ready` returns once it acts."""
        assert self._process is None, "the operator runs already"
        with self.log.open("ab") as log:
            log.write(b"--- started ---\n")
            log.flush()
            # A session of its own: Ctrl-C at the tests must not reach it before them.
            self._process = subprocess.Popen(
                self._command,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
            )

    @property
    def is_started(self) -> bool:
        """Whether it was started since it was last told to end or seen to have ended."""
        return self._process is not None

    @property
    def pid(self) -> int:
        """The process's id while it runs."""
        assert self._process is not None, "the operator was not started"
        return self._process.pid

    def wait_until_ready(self) -> None:
        """Return when /healthz answers 200: the first listing is complete."""
        deadline = time.monotonic() + START.total_seconds()
        while self.health() != 200:
            assert self._process is not None, "the operator was not started"
            ended = self._process.poll()
            assert ended is None, f"the operator ended with {ended}:\n{self.tail()}"
            assert time.monotonic() < deadline, f"the operator is not ready:\n{self.tail()}"
            time.sleep(0.05)

    def health(self) -> int:
        """The status of /healthz; 0 while nobody listens."""
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

    def kill(self) -> None:
        """SIGKILL it, at whatever it is doing."""
        self._signal(signal.SIGKILL)

    def pause(self) -> None:
        """SIGSTOP it, at whatever it is doing."""
        assert self._process is not None, "the operator was not started"
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after `pause`."""
        assert self._process is not None, "the operator was not started"
        self._process.send_signal(signal.SIGCONT)

    def ended(self) -> int | None:
        """Its exit code once it has ended by itself; it may be started again then."""
        code = None if self._process is None else self._process.poll()
        if code is not None:
            self._process = None
        return code

    def stop(self) -> int:
        """SIGTERM it and return its exit code; the second call does nothing."""
        return self._signal(signal.SIGTERM)

    def tail(self) -> str:
        """The last lines of its log."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join(lines[-SHOWN_LINES:])

    def _signal(self, number: signal.Signals) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(number)
        try:
            return process.wait(END.total_seconds())
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            raise AssertionError(f"the operator ignores {number.name}:\n{self.tail()}") from None

    def _get(self, path: str) -> str:
        url = f"http://127.0.0.1:{self.port}{path}"
        with urllib.request.urlopen(url, timeout=5) as answer:
            text: bytes = answer.read()
        return text.decode()


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
