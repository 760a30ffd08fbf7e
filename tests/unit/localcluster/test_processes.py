"""Waiting, running commands, control groups and the state of a cluster, without a cluster."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from tools.localcluster.cgroups import make_branch, remove_branch
from tools.localcluster.commands import run, run_logged, succeeds
from tools.localcluster.errors import ClusterError
from tools.localcluster.options import ClusterOptions
from tools.localcluster.state import State
from tools.localcluster.waiting import wait_for

_HOLD = (
    "import fcntl,sys; file=open(sys.argv[1],'w'); fcntl.lockf(file, fcntl.LOCK_EX);"
    "print('held', flush=True); sys.stdin.read()"
)


def test_a_wait_that_times_out_raises_with_the_diagnosis() -> None:
    with pytest.raises(ClusterError, match="in vain for the moon\nit is cloudy"):
        wait_for("the moon", lambda: False, timedelta(), lambda: "it is cloudy")


def test_a_wait_for_a_true_predicate_returns_at_once() -> None:
    wait_for("the sun", lambda: True, timedelta(seconds=-1))


def test_a_failure_shows_the_end_of_what_was_printed() -> None:
    with pytest.raises(ClusterError, match="broken beyond repair"):
        run([sys.executable, "-c", "import sys; sys.exit('broken beyond repair')"])


def test_a_missing_program_is_named() -> None:
    with pytest.raises(ClusterError, match="no-such-program is not installed"):
        run(["no-such-program"])


def test_a_failure_of_a_long_program_shows_the_end_of_its_log(tmp_path: Path) -> None:
    code = "import sys; [print(n) for n in range(99)]; sys.exit(3)"
    with pytest.raises(ClusterError, match=r"the end of .*log:\n84\n(.*\n)*98"):
        run_logged([sys.executable, "-c", code], tmp_path / "logs" / "log")


def test_a_client_without_its_server_does_not_succeed() -> None:
    assert succeeds([sys.executable, "-c", ""])
    assert not succeeds([sys.executable, "-c", "raise SystemExit(1)"])
    assert not succeeds(["no-such-program"])


def test_a_cluster_runs_while_its_lock_is_held(tmp_path: Path) -> None:
    state = State(tmp_path)
    assert state.supervisor() is None
    command = [sys.executable, "-c", _HOLD, str(state.lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert state.supervisor() == holder.pid
        holder.kill()
    assert state.supervisor() is None


def test_a_new_start_keeps_nothing_but_unpacked_images(tmp_path: Path) -> None:
    state = State(tmp_path)
    for name in ("containerd", "etcd", "logs"):
        (tmp_path / name).mkdir()
    state.lock.touch()
    state.save(ClusterOptions(name="other", gpus=3))
    assert state.load() == ClusterOptions(name="other", gpus=3)
    state.renew()
    assert {path.name for path in tmp_path.iterdir()} == {"containerd", "logs"}
    assert state.load() is None


@pytest.mark.parametrize("version", [1, 2])
def test_groups_that_a_killed_cluster_left_are_removed(tmp_path: Path, version: int) -> None:
    hierarchies = [tmp_path] if version == 2 else [tmp_path / "cpu", tmp_path / "memory"]
    for hierarchy in hierarchies:
        hierarchy.mkdir(exist_ok=True)
    if version == 2:
        (tmp_path / "cgroup.controllers").touch()
    make_branch("mine", tmp_path)
    for hierarchy in hierarchies:
        (hierarchy / "trainyard-mine" / "kubepods" / "pod").mkdir(parents=True)
        (hierarchy / "trainyard-other").mkdir()
    remove_branch("mine", tmp_path)
    for hierarchy in hierarchies:
        assert not (hierarchy / "trainyard-mine").exists()
        assert (hierarchy / "trainyard-other").exists()
