"""What builds and keeps images on this machine, and gives them to a cluster: the one interface."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """One image to build."""

    tag: str
    containerfile: Path
    context: Path
    arguments: Mapping[str, str]
    target: str | None = None
    """The stage to stop at; None builds the whole."""

    def words(self) -> list[str]:
        """The part of the command line that all engines share."""
        words = ["--tag", self.tag, "--file", str(self.containerfile)]
        for name, value in self.arguments.items():
            words += ["--build-arg", f"{name}={value}"]
        if self.target:
            words += ["--target", self.target]
        return [*words, str(self.context)]


class Engine(Protocol):
    """A builder and keeper of images."""

    def base(self) -> str:
        """The image that ours are built on; empty for the Containerfiles' own default."""

    def has(self, tag: str) -> bool:
        """Whether it keeps an image of this name."""

    def build(self, build: Build, log: Path) -> None:
        """Build an image."""

    def remove_other_tags(self, tag: str) -> None:
        """Forget the images of the same name but another tag."""

    def unpacked_layers(self, tag: str) -> Mapping[str, Path]:
        """Chain identifier → folder of the layers, from the lowest, that lie unpacked on disk."""

    def archive(self, tag: str, known_layers: Collection[str]) -> Iterator[bytes]:
        """The image in pieces; layers whose chain identifier is known may be left out."""
