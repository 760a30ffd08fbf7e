"""The supervisor that keeps a local cluster's processes running, and ends them all with itself.

Seen from here a cluster is one process: it holds the cluster's lock while it lives, and the kernel
ends everything below it when it dies, so that a killed run leaves nothing behind.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import IO

from tools.localcluster.commands import tail
from tools.localcluster.errors import ClusterError
from tools.localcluster.state import State
from tools.localcluster.waiting import wait_for

_ISOLATED = (
    "unshare",
    "--mount",
    "--net",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
    "--propagation=private",
    "--",
)
"""Own mounts, network and process identifiers: the host's stay as they are."""

_START = timedelta(seconds=10)
_END = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class Process:
    """A program that the supervisor keeps running."""

    name: str
    args: Sequence[str]
    env: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Supervisor:
    """A supervisor that waits to be told what to run; its namespaces exist already."""

    pid: int
    orders: IO[str]

    def launch(self, processes: Sequence[Process], logs: Path) -> None:
        """Tell the supervisor what to run; it runs it until it is stopped."""
        with self.orders:
            json.dump(
                [{**asdict(process), "log": f"{logs / process.name}.log"} for process in processes],
                self.orders,
            )


def start_supervisor(program: Path, state: State, *, isolated: bool) -> Supervisor:
    """Start a supervisor, in namespaces of its own if asked; it dies when this process does now."""
    command = [*(_ISOLATED if isolated else ()), str(program), "--lock", str(state.lock)]
    reader, writer = os.pipe()
    log = os.open(state.logs / "supervisor.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.posix_spawn(
            _which(command[0]),
            command,
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, reader, 0),
                (os.POSIX_SPAWN_DUP2, log, 1),
                (os.POSIX_SPAWN_DUP2, log, 2),
            ],
            setsid=True,
        )
    finally:
        os.close(reader)
        os.close(log)
    orders = os.fdopen(writer, "w")
    wait_for(
        "the supervisor of the cluster",
        lambda: state.supervisor() is not None,
        _START,
        lambda: tail(state.logs / "supervisor.log"),
    )
    return Supervisor(state.supervisor() or 0, orders)


def stop_supervisor(state: State) -> bool:
    """End a cluster's processes and wait until they are gone; says whether there were any."""
    pid = state.supervisor()
    if pid is None:
        return False
    session = os.getsid(pid)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    wait_for(
        f"the processes of session {session} to end",
        lambda: not _lives(pid) and not _members(session),
        _END,
        lambda: f"still there: {_members(session)}",
    )
    return True


def _which(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        raise ClusterError(f"{program} is not installed, and a local cluster needs it")
    return path


def _lives(pid: int) -> bool:
    """Whether a process runs; our own dead child is collected on the way."""
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    return _state_and_session(pid)[0] not in "ZX"


def _members(session: int) -> list[int]:
    """The living processes of a session."""
    with suppress(ChildProcessError):
        os.waitpid(session, os.WNOHANG)
    found = []
    for pid in (int(entry) for entry in os.listdir("/proc") if entry.isdigit()):
        state, of_session = _state_and_session(pid)
        if of_session == session and state not in "ZX":
            found.append(pid)
    return found


def _state_and_session(pid: int) -> tuple[str, int]:
    """Fields 3 and 6 of /proc/PID/stat; a process that is gone is dead and of no session."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "X", -1
    return fields[0], int(fields[3])
