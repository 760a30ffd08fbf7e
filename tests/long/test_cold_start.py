"""The first build and cluster on a machine without caches."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
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
def checkout() -> Iterator[Path]:
    """A fresh clone below a short path, as a cluster's sockets need; removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="cold-"))
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder / "clone")], check=True)
    yield folder / "clone"
    subprocess.run(["chmod", "-R", "u+w", str(folder)], check=True)  # Go's modules are read-only
    shutil.rmtree(folder)


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
