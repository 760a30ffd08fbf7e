"""Running other programs: their failure becomes a sentence with the end of what they printed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tools.localcluster.errors import ClusterError

_TAIL_LINES = 15


def run(
    args: Sequence[str | Path],
    *,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout_seconds: float = 120,
) -> str:
    """Run a program to its end and return what it printed; raises ClusterError when it fails."""
    words = [str(arg) for arg in args]
    try:
        done = subprocess.run(
            words,
            input=stdin,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            text=True,
            capture_output=True,
            check=False,
            timeout=timeout_seconds,
        )
    except FileNotFoundError as error:
        raise ClusterError(f"{words[0]} is not installed, and it is needed here") from error
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"`{_shown(words)}` took longer than {timeout_seconds:.0f} s") from error
    if done.returncode:
        raise ClusterError(f"`{_shown(words)}` failed:\n{last_lines(done.stderr or done.stdout)}")
    return done.stdout


def run_logged(args: Sequence[str | Path], log: Path, *, timeout_seconds: float = 1800) -> None:
    """Run a long program with its output in a file; raises ClusterError with the file's end."""
    log.parent.mkdir(parents=True, exist_ok=True)
    words = [str(arg) for arg in args]
    with log.open("w") as output:
        try:
            done = subprocess.run(
                words, stdout=output, stderr=output, check=False, timeout=timeout_seconds
            )
        except FileNotFoundError as error:
            raise ClusterError(f"{words[0]} is not installed, and it is needed here") from error
        except subprocess.TimeoutExpired as error:
            raise ClusterError(f"`{_shown(words)}` hangs; its log is {log}") from error
    if done.returncode:
        raise ClusterError(f"`{_shown(words)}` failed; the end of {log}:\n{tail(log)}")


def succeeds(args: Sequence[str | Path], *, timeout_seconds: float = 10) -> bool:
    """Whether a program exists and ends well, soon."""
    if shutil.which(str(args[0])) is None:
        return False
    try:
        run(args, timeout_seconds=timeout_seconds)
    except ClusterError:
        return False
    return True


def tail(log: Path) -> str:
    """The last lines of a log file, or a word about its absence."""
    return last_lines(log.read_text(errors="replace")) if log.exists() else "(no log was written)"


def last_lines(text: str) -> str:
    """The last lines of a text."""
    return "\n".join(text.splitlines()[-_TAIL_LINES:])


def _shown(words: Sequence[str]) -> str:
    line = " ".join(words)
    return line if len(line) <= 120 else f"{line[:117]}..."
