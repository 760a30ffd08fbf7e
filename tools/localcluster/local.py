"""The provider that needs no container engine: Kubernetes' own components on this machine."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from tools.localcluster.api import Api
from tools.localcluster.binaries import ensure_binaries
from tools.localcluster.cache import exclusive
from tools.localcluster.cgroups import remove_branch
from tools.localcluster.containerd import Containerd
from tools.localcluster.errors import ClusterError
from tools.localcluster.images import find_engine
from tools.localcluster.kubectl import Kubectl
from tools.localcluster.loading import load
from tools.localcluster.network import Namespaces
from tools.localcluster.options import ClusterOptions, differences
from tools.localcluster.processes import stop_supervisor
from tools.localcluster.progress import say
from tools.localcluster.simulation import add_simulated_nodes
from tools.localcluster.startup import Startup
from tools.localcluster.state import State
from tools.localcluster.waiting import wait_for

_PATIENCE = timedelta(seconds=30)
"""For how long a cluster that runs may be too busy to answer."""


class LocalProvider:
    """Clusters made of processes of this machine."""

    def up(self, options: ClusterOptions) -> bool:
        """Start a cluster, or find it; simulated nodes are added to one that runs."""
        options = _possible(options)
        state = State.of(options.name)
        with exclusive(state.turn):
            found = _healthy(state)
            if found is None:
                _start(state, options)
            else:
                _require_same(options, found)
            _add_simulated_nodes(state, options)
            return found is None

    def down(self, name: str) -> None:
        """End the cluster's processes, and with them its mounts and its network."""
        state = State.of(name)
        with exclusive(state.turn):
            _clear(state)

    def status(self, name: str) -> str:
        """Say in a sentence whether the cluster runs and what its nodes do."""
        state = State.of(name)
        found = _healthy(state)
        if found is None:
            return f"Cluster {name} does not run."
        if found.control_plane_only and not found.simulated_nodes:
            return f"Cluster {name} runs: a control plane without nodes."
        return f"Cluster {name} runs: {_kubectl(state).node_summary()}."

    def kubeconfig(self, name: str) -> Path:
        """The file with which the cluster is reached."""
        return State.of(name).kubeconfig

    def program(self, name: str) -> Path:
        """The program of the cache: it is of the cluster's own version."""
        return ensure_binaries()[name]

    def load_image(self, name: str, tag: str) -> None:
        """Unpack an image of this machine's engine into the cluster's containerd."""
        found, pid = _healthy(State.of(name)), State.of(name).supervisor()
        if found is None or pid is None:
            raise ClusterError(f"Cluster {name} does not run: bring it up first.")
        if found.control_plane_only:
            raise ClusterError(
                f"Cluster {name} has a control plane only: no pod of it needs images."
            )
        containerd = Containerd(Namespaces(pid), ensure_binaries()["ctr"])
        load(containerd, find_engine(), tag)


def _possible(options: ClusterOptions) -> ClusterOptions:
    """Leave out what this user cannot have, with a sentence about what is missing for it."""
    if options.control_plane_only or os.geteuid() == 0:
        return options
    say(
        "Only a control plane is started, on which no pod runs: a node needs root (it makes mounts "
        "and a network), or a Docker engine for the kind provider. The integration tests do not."
    )
    return replace(options, control_plane_only=True)


def _healthy(state: State) -> ClusterOptions | None:
    """What a cluster was started as, if it came up entirely and still answers."""
    options = state.load()
    if options is None or state.supervisor() is None:
        return None
    api = Api.of(state.kubeconfig)
    try:
        wait_for("the API server", lambda: api.answers("/readyz"), _PATIENCE)
    except ClusterError:
        return None
    return options


def _require_same(wanted: ClusterOptions, existing: ClusterOptions) -> None:
    found = differences(wanted, existing)
    if found:
        raise ClusterError(
            f"A cluster called {wanted.name} runs, but {' and '.join(found)}: take it down first, "
            "or use another --name."
        )


def _kubectl(state: State) -> Kubectl:
    return Kubectl(ensure_binaries()["kubectl"], state.kubeconfig)


def _start(state: State, options: ClusterOptions) -> None:
    _clear(state)
    state.renew()
    try:
        Startup(state, replace(options, simulated_nodes=0), ensure_binaries()).run()
    except BaseException:
        _clear(state)
        raise


def _clear(state: State) -> None:
    """End what runs of a cluster and remove what a killed run left behind."""
    stop_supervisor(state)
    if os.geteuid() == 0:
        remove_branch(state.root.name)
    state.forget()


def _add_simulated_nodes(state: State, options: ClusterOptions) -> None:
    existing = state.load() or options
    if existing.simulated_nodes < options.simulated_nodes:
        kubectl = _kubectl(state)
        add_simulated_nodes(kubectl, options.simulated_nodes, options.gpus_per_node)
        state.save(
            replace(
                existing,
                simulated_nodes=options.simulated_nodes,
                gpus_per_node=options.gpus_per_node,
            )
        )
