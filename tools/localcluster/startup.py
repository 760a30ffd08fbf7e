"""Starting a local cluster: top to bottom, from an empty folder to an API server that answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta

from tools.localcluster import packages
from tools.localcluster.api import Api
from tools.localcluster.assembly import assemble
from tools.localcluster.binaries import Binaries
from tools.localcluster.cgroups import make_branch
from tools.localcluster.commands import tail
from tools.localcluster.containerd import Containerd
from tools.localcluster.controlplane import ControlPlane, Endpoints, endpoints_on_loopback
from tools.localcluster.errors import ClusterError
from tools.localcluster.kubectl import SIMULATED_GPUS, is_ready
from tools.localcluster.network import Namespaces, furnish
from tools.localcluster.node import DNS_READY_PORT, NODE, STORAGE_CLASS, Node, check_folder
from tools.localcluster.oci import archive, single_program_image
from tools.localcluster.options import ClusterOptions
from tools.localcluster.packages import find, require
from tools.localcluster.processes import start_supervisor
from tools.localcluster.state import State
from tools.localcluster.waiting import wait_for

_API = timedelta(seconds=90)
_CONTAINERD = timedelta(seconds=30)
_NODE = timedelta(seconds=90)


@dataclass(frozen=True, slots=True)
class Startup:
    """One start of one cluster."""

    state: State
    options: ClusterOptions
    binaries: Binaries

    def run(self) -> None:
        """Bring the cluster up; raises ClusterError with the end of the log that tells why not."""
        if self.options.control_plane_only:
            self._control_plane()
        else:
            self._control_plane_and_node()
        self.state.save(replace(self.options, provider="local"))

    def _control_plane(self) -> None:
        supervisor = start_supervisor(self.binaries["supervisor"], self.state, isolated=False)
        plane = assemble(self.state, self.options, self.binaries, endpoints_on_loopback())
        supervisor.launch(plane.processes(), self.state.logs)
        self._until_api_answers()

    def _control_plane_and_node(self) -> None:
        check_folder(self.state.root)
        require(packages.NODE)
        make_branch(self.options.name)
        supervisor = start_supervisor(self.binaries["supervisor"], self.state, isolated=True)
        namespaces = Namespaces(supervisor.pid)
        address = furnish(namespaces, self.options.name)
        endpoints = Endpoints(address=address, advertised=address)
        node = self._node(assemble(self.state, self.options, self.binaries, endpoints))
        programs = [*node.plane.processes(), *node.processes()]
        supervisor.launch(programs, self.state.logs)
        self._load_pause_image(namespaces, node)
        self._until_api_answers()
        self._until_node_is_ready(Api.of(self.state.kubeconfig), address)

    def _node(self, plane: ControlPlane) -> Node:
        runc, plugin = find("runc"), find("ptp")
        assert runc is not None  # `require` saw to both
        assert plugin is not None
        return Node(plane=plane, cluster=self.options.name, runc=runc, cni=plugin.parent)

    def _load_pause_image(self, namespaces: Namespaces, node: Node) -> None:
        containerd = Containerd(namespaces, self.binaries["ctr"])
        self._until("containerd", containerd.answers, "containerd", _CONTAINERD)
        if node.pause_image not in containerd.images():
            manifest, blobs = single_program_image(self.binaries["pause"])
            containerd.load(archive(node.pause_image, manifest, blobs))

    def _until_node_is_ready(self, api: Api, address: str) -> None:
        api.create("/apis/storage.k8s.io/v1/storageclasses", STORAGE_CLASS)
        node = f"/api/v1/nodes/{NODE}"
        self._until("the node", lambda: api.answers(node), "kubelet", _NODE)
        api.merge(node, {"metadata": {"labels": {SIMULATED_GPUS: "true"}}})
        gpus = {"nvidia.com/gpu": str(self.options.gpus)}
        api.merge(f"{node}/status", {"status": {"capacity": gpus, "allocatable": gpus}})
        self._until("a ready node", lambda: is_ready(api.get(node)), "kubelet", _NODE)
        dns = Api(f"http://{address}:{DNS_READY_PORT}", api.trust)
        self._until("the cluster's DNS", lambda: dns.answers("/ready"), "coredns", _NODE)

    def _until_api_answers(self) -> None:
        api = Api.of(self.state.kubeconfig)
        self._until("the API server", lambda: api.answers("/readyz"), "kube-apiserver", _API)
        self._until(
            "the default service account",
            lambda: api.answers("/api/v1/namespaces/default/serviceaccounts/default"),
            "kube-controller-manager",
            _API,
        )

    def _until(
        self, what: str, is_so: Callable[[], bool], component: str, timeout: timedelta
    ) -> None:
        """Wait for something of a component, whose log is shown when it does not come."""

        def is_so_or_lost() -> bool:
            if self.state.supervisor() is None:
                raise ClusterError(f"the cluster ended:\n{self._tail('supervisor')}")
            return is_so()

        wait_for(what, is_so_or_lost, timeout, lambda: self._tail(component))

    def _tail(self, component: str) -> str:
        log = self.state.logs / f"{component}.log"
        return f"the end of {log}:\n{tail(log)}"
