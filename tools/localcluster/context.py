"""The provider of clusters that exist: a kube-context, named explicitly, never the current one."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from tools.localcluster.binaries import ensure_binaries
from tools.localcluster.cache import exclusive
from tools.localcluster.commands import run
from tools.localcluster.errors import ClusterError
from tools.localcluster.kubectl import Kubectl
from tools.localcluster.options import ClusterOptions
from tools.localcluster.processes import stop_supervisor
from tools.localcluster.simulation import add_simulated_nodes, run_kwok
from tools.localcluster.state import State


class ContextProvider:
    """A cluster of somebody else's, used but neither started nor ended."""

    def up(self, options: ClusterOptions) -> bool:
        """Make sure that the cluster answers; it is never started here."""
        state = State.of(options.name)
        with exclusive(state.turn):
            self._write_kubeconfig(state, options)
            kubectl = Kubectl(self.program("kubectl"), state.kubeconfig)
            kubectl("get", "--raw=/readyz")
            if options.simulated_nodes:
                run_kwok(state)
                add_simulated_nodes(kubectl, options.simulated_nodes, options.gpus_per_node)
            state.save(replace(options, provider="context"))
        return False

    def down(self, name: str) -> None:
        """Stop answering for simulated nodes; the cluster itself goes on."""
        state = State.of(name)
        with exclusive(state.turn):
            stop_supervisor(state)
            state.forget()

    def status(self, name: str) -> str:
        """Say in a sentence what the cluster's nodes do."""
        state = State.of(name)
        options = state.load()
        if options is None:
            return f"No context is in use as cluster {name}."
        kubectl = Kubectl(self.program("kubectl"), state.kubeconfig)
        return f"Cluster {name} is the context {options.context}: {kubectl.node_summary()}."

    def kubeconfig(self, name: str) -> Path:
        """A copy of the kubeconfig with nothing but the context."""
        return State.of(name).kubeconfig

    def program(self, name: str) -> Path:
        """The user's own program, which knows their way of logging in."""
        return own_or_built(name)

    def load_image(self, name: str, tag: str) -> None:  # noqa: ARG002
        """Refuse: this machine cannot put images into somebody else's cluster."""
        raise ClusterError(
            f"The cluster of a context pulls its images: push {tag} to a registry that it pulls "
            "from, and name it there in the chart's values and in the jobs."
        )

    def _write_kubeconfig(self, state: State, options: ClusterOptions) -> None:
        view = ["config", "view", "--raw", "--flatten", "--minify", "--output=json"]
        text = run([self.program("kubectl"), *view, f"--context={options.context}"])
        state.root.mkdir(parents=True, exist_ok=True)
        state.kubeconfig.touch(mode=0o600)
        state.kubeconfig.write_text(text)


def own_or_built(name: str) -> Path:
    """The program of that name on the search path, else ours."""
    found = shutil.which(name)
    return Path(found) if found else ensure_binaries()[name]
