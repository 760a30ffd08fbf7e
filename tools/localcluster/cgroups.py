"""The control groups of a cluster's pods: one branch of its own in every hierarchy."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from tools.localcluster.waiting import wait_for

_MOUNT = Path("/sys/fs/cgroup")
_REMOVAL = timedelta(seconds=10)


def branch(name: str) -> str:
    """The branch below which the kubelet of a cluster puts its pods."""
    return f"/trainyard-{name}"


def make_branch(name: str, mount: Path = _MOUNT) -> None:
    """Create the branch, which the kubelet expects to exist."""
    for hierarchy in _hierarchies(mount):
        folder = hierarchy / branch(name)[1:]
        folder.mkdir(exist_ok=True)
        if (folder / "cpuset.cpus").exists() and hierarchy.name == "cpuset":
            # A new group of version 1 has neither processors nor memory until it is given some.
            for file in ("cpuset.cpus", "cpuset.mems"):
                (folder / file).write_text((hierarchy / file).read_text())


def remove_branch(name: str, mount: Path = _MOUNT) -> None:
    """Remove the branch with the groups of pods that a killed cluster left in it."""
    for hierarchy in _hierarchies(mount):
        folder = hierarchy / branch(name)[1:]
        wait_for(f"{folder} to be empty", lambda folder=folder: _is_removed(folder), _REMOVAL)  # type: ignore[misc]


def _is_removed(folder: Path) -> bool:
    """Remove groups from the leaves up; one whose last process is still ending stays for now."""
    if not folder.exists():
        return True
    groups = sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True)
    for group in (*groups, folder):
        with suppress(OSError):
            group.rmdir()
    return not folder.exists()


def _hierarchies(mount: Path) -> list[Path]:
    """The one hierarchy of version 2, or those of version 1."""
    if (mount / "cgroup.controllers").exists():
        return [mount]
    return [path for path in mount.iterdir() if path.is_dir() and not path.is_symlink()]
