"""The folder of one cluster: where its files lie, whether it runs, and what it was started as."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import struct
from dataclasses import asdict, dataclass
from pathlib import Path

from tools.localcluster.cache import cache_root
from tools.localcluster.options import ClusterOptions

_FLOCK = "hhqqi4x"
"""struct flock on 64-bit Linux: type, whence, start, length, holder's process identifier."""

_SURVIVES_DOWN = ("containerd",)
"""Unpacked images: the next start would otherwise unpack gigabytes again."""


@dataclass(frozen=True, slots=True)
class State:
    """The files of one named cluster."""

    root: Path

    @classmethod
    def of(cls, name: str) -> State:
        """The state of a cluster by its name, whether or not it was ever started."""
        return cls(cache_root() / "clusters" / name)

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig, for use from the host."""
        return self.root / "kubeconfig"

    @property
    def logs(self) -> Path:
        """One log file per component; they stay until the next start."""
        return self.root / "logs"

    @property
    def turn(self) -> Path:
        """The lock that `up` and `down` hold while they work."""
        return self.root.with_suffix(".turn")

    @property
    def lock(self) -> Path:
        """The lock that the supervisor holds while the cluster lives."""
        return self.root / "supervisor.lock"

    @property
    def _record(self) -> Path:
        return self.root / "cluster.json"

    def supervisor(self) -> int | None:
        """The process that holds the cluster's lock, None when no cluster runs."""
        if not self.lock.exists():
            return None
        query = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        with self.lock.open("r+b") as file:
            kind, *_, holder = struct.unpack(_FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, query))
        return None if kind == fcntl.F_UNLCK else int(holder)

    def renew(self) -> None:
        """Forget everything of an earlier run but what is costly to make again."""
        self.logs.mkdir(parents=True, exist_ok=True)
        for entry in self.root.iterdir():
            if entry.name in _SURVIVES_DOWN:
                continue
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        self.logs.mkdir()

    def save(self, options: ClusterOptions) -> None:
        """Note that the cluster came up, and as what."""
        self.root.mkdir(parents=True, exist_ok=True)
        self._record.write_text(json.dumps(asdict(options), indent=2))

    def load(self) -> ClusterOptions | None:
        """What the cluster was started as; None when it never came up entirely."""
        if not self._record.exists():
            return None
        return ClusterOptions(**json.loads(self._record.read_text()))

    def forget(self) -> None:
        """Note that the cluster is no more."""
        self._record.unlink(missing_ok=True)
        self.kubeconfig.unlink(missing_ok=True)
