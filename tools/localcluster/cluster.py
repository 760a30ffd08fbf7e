"""A cluster in the hands of a test or the demo, whichever provider it came from."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tools.localcluster import docker
from tools.localcluster.context import ContextProvider
from tools.localcluster.kind import KindProvider
from tools.localcluster.local import LocalProvider
from tools.localcluster.options import ClusterOptions, ProviderName, choose_provider
from tools.localcluster.provider import Provider
from tools.localcluster.state import State


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster that runs; as a context manager it closes itself."""

    name: str
    provider: Provider
    started_here: bool
    """False when the cluster ran before: then closing leaves it running."""

    @property
    def kubeconfig(self) -> Path:
        """The file with which the cluster is reached, as an administrator."""
        return self.provider.kubeconfig(self.name)

    @property
    def kubectl(self) -> Path:
        """A kubectl that suits the cluster."""
        return self.provider.program("kubectl")

    @property
    def helm(self) -> Path:
        """A helm that suits the cluster."""
        return self.provider.program("helm")

    def load_image(self, tag: str) -> None:
        """Make an image of this machine usable by pods; one of Trainyard's own is built first."""
        self.provider.load_image(self.name, tag)

    def close(self) -> None:
        """Take the cluster down if this is what started it."""
        if self.started_here:
            self.provider.down(self.name)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def provider_for(options: ClusterOptions) -> Provider:
    """The provider that serves these options here; a cluster that exists keeps its own."""
    existing = State.of(options.name).load()
    if existing is not None and options.provider == "auto" and options.context is None:
        options = existing
    return _PROVIDERS[choose_provider(options, kind_works=_kind_works())]()


def open_cluster(options: ClusterOptions) -> Cluster:
    """Bring a cluster up, or find the one of that name."""
    provider = provider_for(options)
    return Cluster(options.name, provider, provider.up(options))


_PROVIDERS: dict[ProviderName, type[Provider]] = {
    "context": ContextProvider,
    "kind": KindProvider,
    "local": LocalProvider,
}


def _kind_works() -> bool:
    """Whether kind is here and an engine answers: a docker client alone is common, and no use."""
    return shutil.which("kind") is not None and docker.answers()
