"""What somebody asks of a cluster, and which provider serves it: pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from tools.localcluster.errors import ClusterError

ProviderName = Literal["context", "kind", "local"]

_NAME = re.compile(r"[a-z]([a-z0-9-]{0,28}[a-z0-9])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterOptions:
    """The cluster that somebody asks for."""

    name: str = "trainyard"
    """Several clusters live side by side under different names."""
    provider: Literal["auto", "context", "kind", "local"] = "auto"
    context: str | None = None
    """An existing kube-context; naming one chooses the provider `context`."""
    gpus: int = 8
    """How many `nvidia.com/gpu` the real node advertises; its pods run on the CPU."""
    simulated_nodes: int = 0
    """Nodes of KWOK, whose pods are Running without a process behind them."""
    gpus_per_node: int = 8
    """How many GPUs a simulated node advertises."""
    control_plane_only: bool = False
    """No kubelet: an API server, controllers and the scheduler, for any user, within seconds."""
    stock_limits: bool = False
    """Leave the clients of controller manager, scheduler and kubelet as slow as shipped."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ClusterError(
                f"{self.name!r} cannot name a cluster: use up to 30 lower-case letters, digits and "
                "dashes, a letter first"
            )
        if self.provider == "context" and self.context is None:
            raise ClusterError("provider `context` needs the context's name: add --context NAME")


def choose_provider(options: ClusterOptions, *, kind_works: bool) -> ProviderName:
    """Name the provider: what was asked for, else kind where it has an engine, else local."""
    if options.context is not None:
        return "context"
    if options.provider != "auto":
        return options.provider
    return "kind" if kind_works and not options.control_plane_only else "local"


def differences(wanted: ClusterOptions, existing: ClusterOptions) -> list[str]:
    """Say in words why a running cluster cannot serve what is wanted now."""
    found = []
    if existing.control_plane_only and not wanted.control_plane_only:
        found.append("it has a control plane only")
    both_simulate = wanted.simulated_nodes and existing.simulated_nodes
    if both_simulate and existing.gpus_per_node != wanted.gpus_per_node:
        found.append(f"its simulated nodes have {existing.gpus_per_node} GPUs each")
    if existing.gpus != wanted.gpus and not wanted.control_plane_only:
        found.append(f"its node has {existing.gpus} GPUs")
    if existing.stock_limits != wanted.stock_limits:
        found.append(f"its client limits are {'stock' if existing.stock_limits else 'raised'}")
    return found
