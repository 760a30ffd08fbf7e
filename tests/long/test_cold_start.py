"""The first build and cluster on a machine without caches."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.demo.environment import ROOT

CLUSTER = "trainyard-cold"
CACHES = {
    "XDG_CACHE_HOME": "cache",
    "GOCACHE": "go-build",
    "GOMODCACHE": "go-modules",
    "UV_CACHE_DIR": "uv",
}


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Path]:
    """A fresh clone; read-only Go modules are made removable at the end."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(tmp_path / "clone")], check=True)
    yield tmp_path / "clone"
    subprocess.run(["chmod", "-R", "u+w", str(tmp_path)], check=True)


@pytest.mark.long(minutes=22)
@pytest.mark.timeout(3600)
def test_a_fresh_clone_with_empty_caches_builds_and_starts_a_cluster(checkout: Path) -> None:
    folders = {name: str(checkout.parent / folder) for name, folder in CACHES.items()}
    environ = {**os.environ, **folders}
    # The build must not use this run's virtual environment.
    environ.pop("VIRTUAL_ENV", None)

    def run(*command: str) -> None:
        subprocess.run(command, cwd=checkout, env=environ, check=True)

    run("make", ".venv")
    localcluster = (str(checkout / ".venv/bin/python"), "-m", "tools.localcluster")
    run(*localcluster, "prepare")
    run(*localcluster, "up", "--name", CLUSTER)
    try:
        run(*localcluster, "status", "--name", CLUSTER)
    finally:
        run(*localcluster, "down", "--name", CLUSTER)
