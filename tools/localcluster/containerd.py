"""The containerd of a local cluster: which images it has, and giving it others."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.localcluster.commands import last_lines, run, succeeds
from tools.localcluster.errors import ClusterError
from tools.localcluster.network import Namespaces

_ADOPTING = "adopting-"
"""How the snapshots begin that are not yet whole; those of a killed run are removed."""


@dataclass(frozen=True, slots=True)
class Containerd:
    """The images of a cluster, by containerd's own client."""

    namespaces: Namespaces
    client: Path

    def answers(self) -> bool:
        """Whether it runs."""
        return succeeds(self._command("version"))

    def images(self) -> list[str]:
        """The names of the images that it has."""
        return self._run("images", "list", "--quiet").split()

    def snapshots(self) -> set[str]:
        """The unpacked layers that it has, by the identifiers of their chains."""
        rows = self._run("snapshots", "list").splitlines()
        return {row.split()[0] for row in rows if row}

    def adopt(self, chain: str, parent: str, folder: Path) -> None:
        """Make a snapshot of a layer that lies unpacked in a folder of the same disk.

        Its files are shared, not copied: nobody writes to an image's layer, here or there.
        """
        for left in self.snapshots():
            if left.startswith(_ADOPTING):
                self._run("snapshots", "remove", left)
        key = f"{_ADOPTING}{chain}"
        prepare = ["snapshots", "prepare", "--mounts", key, *([parent] if parent else [])]
        target = unpacking_folder(json.loads(self._run(*prepare)))
        run(["cp", "--archive", "--link", f"{folder}/.", target], timeout_seconds=600)
        self._run("snapshots", "commit", chain, key)

    def release(self, chain: str) -> None:
        """Let a snapshot go once no image needs it: until now it was kept for none."""
        self._run("snapshots", "label", chain, "containerd.io/gc.root=")

    def load(self, archive: Iterable[bytes]) -> None:
        """Import and unpack an OCI archive that comes in pieces.

        The layers' archives are dropped once unpacked: they would double what an image costs.
        """
        command = self._command("images", "import", "--local", "--discard-unpacked-layers", "-")
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as importing:
            assert importing.stdin is not None  # it is a pipe
            assert importing.stdout is not None
            with suppress(BrokenPipeError), importing.stdin:  # it says why it ended, below
                for piece in archive:
                    importing.stdin.write(piece)
            said = importing.stdout.read().decode(errors="replace")
        if importing.returncode:
            raise ClusterError(f"containerd did not take the image:\n{last_lines(said)}")

    def _run(self, *words: str) -> str:
        return self.namespaces.run(*self._client(*words))

    def _client(self, *words: str) -> list[str | Path]:
        return [self.client, "--namespace", "k8s.io", *words]

    def _command(self, *words: str) -> list[str]:
        return self.namespaces.enter(self._client(*words))


def unpacking_folder(mounts: list[dict[str, Any]]) -> Path:
    """Where a snapshot's own files lie, by the mounts that containerd would make for it."""
    (mount,) = mounts
    if mount["Type"] == "bind":  # the lowest layer
        return Path(mount["Source"])
    options = dict(option.partition("=")[::2] for option in mount["Options"])
    return Path(options["upperdir"])
