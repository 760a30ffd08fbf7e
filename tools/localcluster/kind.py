"""The provider for machines with a Docker engine: kind. Not run where this was written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tools.localcluster.cache import exclusive
from tools.localcluster.commands import run, run_logged
from tools.localcluster.context import own_or_built
from tools.localcluster.docker import Docker
from tools.localcluster.errors import ClusterError
from tools.localcluster.images import build_image, images_turn, own_tags
from tools.localcluster.kubectl import Kubectl
from tools.localcluster.options import ClusterOptions, differences
from tools.localcluster.processes import stop_supervisor
from tools.localcluster.simulation import add_simulated_nodes, run_kwok
from tools.localcluster.state import State

_CONFIGURATION = Path(__file__).parent / "kind.yaml"


class KindProvider:
    """Clusters of containers that are nodes."""

    def up(self, options: ClusterOptions) -> bool:
        """Create a cluster, or find it; simulated nodes are added to one that exists."""
        state = State.of(options.name)
        with exclusive(state.turn):
            existing = state.load() if self._exists(options.name) else None
            if existing is None:
                self._create(state, options)
            elif found := differences(options, existing):
                raise ClusterError(
                    f"A cluster called {options.name} runs, but {' and '.join(found)}: take it "
                    "down first, or use another --name."
                )
            self._simulate(state, options)
            state.save(replace(options, provider="kind"))
        return existing is None

    def down(self, name: str) -> None:
        """Delete the cluster."""
        state = State.of(name)
        with exclusive(state.turn):
            stop_supervisor(state)
            run(["kind", "delete", "cluster", "--name", name])
            state.forget()

    def status(self, name: str) -> str:
        """Say in a sentence whether the cluster runs and what its nodes do."""
        if not self._exists(name):
            return f"Cluster {name} does not run."
        return f"Cluster {name} runs in kind: {self._kubectl(State.of(name)).node_summary()}."

    def kubeconfig(self, name: str) -> Path:
        """The file with which the cluster is reached."""
        return State.of(name).kubeconfig

    def program(self, name: str) -> Path:
        """The user's own program, else ours."""
        return own_or_built(name)

    def load_image(self, name: str, tag: str) -> None:
        """Copy an image of the engine into the cluster; one of our own is built first."""
        if tag in own_tags():
            with images_turn():
                build_image(Docker(), tag)
        run(["kind", "load", "docker-image", tag, "--name", name], timeout_seconds=1200)

    def _create(self, state: State, options: ClusterOptions) -> None:
        state.renew()
        command = ["kind", "create", "cluster", f"--name={options.name}", "--wait=180s"]
        places = [f"--config={_CONFIGURATION}", f"--kubeconfig={state.kubeconfig}"]
        run_logged([*command, *places], state.logs / "kind.log")
        self._kubectl(state).advertise_gpus(f"{options.name}-control-plane", options.gpus)

    def _simulate(self, state: State, options: ClusterOptions) -> None:
        if options.simulated_nodes:
            run_kwok(state)
            nodes, gpus = options.simulated_nodes, options.gpus_per_node
            add_simulated_nodes(self._kubectl(state), nodes, gpus)

    def _kubectl(self, state: State) -> Kubectl:
        return Kubectl(self.program("kubectl"), state.kubeconfig)

    def _exists(self, name: str) -> bool:
        return name in run(["kind", "get", "clusters"]).split()
