"""The cache folder: everything big lives there, keyed by a hash of what it is made from.

It lies outside the checkout, so that a clean checkout on a machine that built before starts soon.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_root() -> Path:
    """The folder that holds binaries, image layers and the state of clusters."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "trainyard"


def content_key(texts: Iterable[str], files: Iterable[Path] = (), root: Path = Path()) -> str:
    """A short hash of texts and of files, by their paths below `root` and their content."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode() + b"\0")
    for file in sorted(files):
        digest.update(str(file.relative_to(root)).encode() + b"\0")
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for the time being, on the cache's disk; those of killed runs are removed."""
    parent = cache_root() / "scratch"
    parent.mkdir(parents=True, exist_ok=True)
    for left in parent.iterdir():
        if not Path("/proc", left.name.partition("-")[0]).exists():
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{os.getpid()}-", dir=parent) as name:
        yield Path(name)


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold a lock file: two commands at once take turns instead of treading on each other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
