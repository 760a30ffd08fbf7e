"""A Docker engine as the builder of images: it can pull what ours are built on."""

from __future__ import annotations

import subprocess
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from tools.localcluster.commands import run, run_logged, succeeds
from tools.localcluster.engines import Build
from tools.localcluster.errors import ClusterError

_PIECE_BYTES = 1 << 20


def answers() -> bool:
    """Whether an engine is there: a client without one is common."""
    return succeeds(["docker", "info"])


class Docker:
    """The engine that the docker client speaks to."""

    def base(self) -> str:
        """The Containerfiles' own default."""
        return ""

    def has(self, tag: str) -> bool:
        """Whether the engine keeps an image of this name."""
        return succeeds(["docker", "image", "inspect", tag])

    def build(self, build: Build, log: Path) -> None:
        """Build an image, its layers cached by the engine."""
        run_logged(["docker", "build", *build.words()], log)

    def remove_other_tags(self, tag: str) -> None:
        """Forget the images of the same name but another tag."""
        listed = ["docker", "images", "--format", "{{.Repository}}:{{.Tag}}", tag.partition(":")[0]]
        for other in set(run(listed).split()) - {tag}:
            run(["docker", "rmi", other])

    def unpacked_layers(self, tag: str) -> Mapping[str, Path]:
        """None: the engine's folders are its own."""
        del tag
        return {}

    def archive(self, tag: str, known_layers: Collection[str]) -> Iterator[bytes]:
        """The whole image: the engine saves no part of one."""
        del known_layers
        with subprocess.Popen(["docker", "save", tag], stdout=subprocess.PIPE) as saving:
            assert saving.stdout is not None  # it is a pipe
            while piece := saving.stdout.read(_PIECE_BYTES):
                yield piece
        if saving.returncode:
            raise ClusterError(f"docker could not save {tag}")
