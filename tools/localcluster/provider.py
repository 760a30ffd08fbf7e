"""What every provider of clusters can do: the one interface behind which they stand."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from tools.localcluster.options import ClusterOptions


class Provider(Protocol):
    """A way to get a cluster."""

    def up(self, options: ClusterOptions) -> bool:
        """Bring a cluster up or find it running; says whether it was started now."""

    def down(self, name: str) -> None:
        """Take a cluster down; one that does not run is no error."""

    def status(self, name: str) -> str:
        """Say in a sentence how a cluster fares."""

    def kubeconfig(self, name: str) -> Path:
        """The file with which the cluster is reached."""

    def program(self, name: str) -> Path:
        """Where `kubectl` or `helm` is, of a version that suits the cluster."""

    def load_image(self, name: str, tag: str) -> None:
        """Make an image of this machine usable by pods of the cluster."""
