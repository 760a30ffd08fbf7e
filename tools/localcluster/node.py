"""The one real node of a local cluster: configuration and command lines of what runs its pods."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.localcluster.cgroups import branch
from tools.localcluster.controlplane import ControlPlane, command
from tools.localcluster.errors import ClusterError
from tools.localcluster.network import POD_RANGE
from tools.localcluster.processes import Process

NODE = "trainyard-node"
"""The name of the one real node."""

SOCKET = "/run/containerd/containerd.sock"
"""In the cluster's own mounts, where paths are short: a socket's may have 107 characters."""

_SOCKET_PATH_LENGTH = 107
_LONGEST_SOCKET = "device-plugins/kubelet.sock"
"""Of those that the kubelet makes below its folder."""

DNS_READY_PORT = 8181
PROVISIONER = "trainyard.dev/folder"

_MAX_PODS = 250
_RAISED_QPS, _RAISED_BURST = 200, 400


def check_folder(root: Path) -> None:
    """Raise ClusterError where the kubelet could not make its sockets below a cluster's folder."""
    excess = len(os.fsencode(root / "kubelet" / _LONGEST_SOCKET)) - _SOCKET_PATH_LENGTH
    if excess > 0:
        raise ClusterError(
            f"The folder {root} is {excess} characters too long: the kubelet makes sockets there, "
            f"whose paths may have {_SOCKET_PATH_LENGTH}. Choose a shorter cache folder "
            "(XDG_CACHE_HOME) or a shorter name (--name)."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """What the processes of the node are made from."""

    plane: ControlPlane
    cluster: str
    """The cluster's name."""
    runc: Path
    cni: Path
    """The folder of the CNI plug-ins."""

    def processes(self) -> list[Process]:
        """Write the configurations and describe what runs, cluster DNS and storage included."""
        return [
            self._containerd(),
            self._kubelet(),
            self._proxy(),
            self._dns(),
            self._provisioner(),
        ]

    @property
    def pause_image(self) -> str:
        """The image that holds a pod's namespaces; its tag changes with the program."""
        return f"trainyard.dev/pause:{self.plane.binaries.folder.name}"

    def _containerd(self) -> Process:
        config = self._write("containerd.toml", self._containerd_configuration())
        self._write("cni/10-pods.conflist", json.dumps(_CNI, indent=2))
        # It finds its shim by the search path.
        path = f"PATH={self.plane.binaries.folder}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"
        program = str(self.plane.binaries["containerd"])
        return Process("containerd", [program, "--config", str(config)], [path])

    def _containerd_configuration(self) -> str:
        root = self.plane.root
        runtime = "plugins.'io.containerd.cri.v1.runtime'"
        return f"""\
version = 3
root = '{root}/containerd'
state = '/run/containerd'
imports = []
disabled_plugins = [{", ".join(f"'io.containerd.{plugin}'" for plugin in _UNUSED)}]

[grpc]
address = '{SOCKET}'

[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = '{self.pause_image}'

[{runtime}]
# Without CAP_SYS_RESOURCE nobody may lower a score, and every sandbox would die of trying.
restrict_oom_score_adj = true

[{runtime}.cni]
bin_dirs = ['{self.cni}']
conf_dir = '{root}/cni'

[{runtime}.containerd.runtimes.runc]
runtime_type = 'io.containerd.runc.v2'
options.BinaryName = '{self.runc}'
"""

    def _kubelet(self) -> Process:
        self._write("resolv.conf", "")
        config = self._write("kubelet.json", json.dumps(self.kubelet_configuration(), indent=2))
        return Process(
            "kubelet",
            command(
                self.plane.binaries["kubelet"],
                {
                    "config": config,
                    "kubeconfig": self.plane.kubeconfigs["node"],
                    "root_dir": self.plane.root / "kubelet",
                    "cert_dir": self.plane.root / "kubelet" / "pki",
                    "hostname_override": NODE,
                    "node_ip": self.plane.endpoints.address,
                },
            ),
        )

    def kubelet_configuration(self) -> dict[str, Any]:
        """The kubelet's settings that differ from those it is shipped with."""
        limits = {"kubeAPIQPS": _RAISED_QPS, "kubeAPIBurst": _RAISED_BURST}
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {"x509": {"clientCAFile": str(self.plane.authority.certificate)}},
            "authorization": {"mode": "Webhook"},
            "containerRuntimeEndpoint": f"unix://{SOCKET}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": branch(self.cluster),
            "failCgroupV1": False,
            "failSwapOn": False,
            "clusterDomain": "cluster.local",
            "clusterDNS": [self.plane.endpoints.address],
            "resolvConf": str(self.plane.root / "resolv.conf"),
            # With the usual 100 ms a worker limited to a part of a core stands still for most of a
            # period, and the others wait for it in every collective.
            "cpuCFSQuotaPeriod": "10ms",
            "featureGates": {"CustomCPUCFSQuotaPeriod": True},
            # The disk is not the cluster's own: it may be as full as its owner likes.
            "evictionHard": {
                "nodefs.available": "0%",
                "nodefs.inodesFree": "0%",
                "imagefs.available": "0%",
                "imagefs.inodesFree": "0%",
                "memory.available": "100Mi",
            },
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "maxPods": _MAX_PODS,
            "nodeStatusUpdateFrequency": "5s",
            "podLogsDir": str(self.plane.root / "pods"),
            "volumePluginDir": str(self.plane.root / "volume-plugins"),
            **({} if self.plane.stock_limits else limits),
        }

    def _proxy(self) -> Process:
        settings = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "nftables",
            "clusterCIDR": POD_RANGE,
            "hostnameOverride": NODE,
            "clientConnection": {"kubeconfig": str(self.plane.kubeconfigs["proxy"])},
            # These limits belong to the host; a namespace may not set them.
            "conntrack": {"maxPerCore": 0, "min": 0},
        }
        config = self._write("kube-proxy.json", json.dumps(settings, indent=2))
        program = self.plane.binaries["kube-proxy"]
        return Process("kube-proxy", command(program, {"config": config}))

    def _dns(self) -> Process:
        corefile = self._write("Corefile", _COREFILE.format(self.plane.kubeconfigs["admin"]))
        return Process("coredns", [str(self.plane.binaries["coredns"]), "-conf", str(corefile)])

    def _provisioner(self) -> Process:
        flags: dict[str, object] = {
            "kubeconfig": self.plane.kubeconfigs["admin"],
            "provisioner": PROVISIONER,
            "root": self.plane.root / "volumes",
        }
        return Process("provisioner", command(self.plane.binaries["provisioner"], flags))

    def _write(self, name: str, text: str) -> Path:
        path = self.plane.root / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path


STORAGE_CLASS = {
    "apiVersion": "storage.k8s.io/v1",
    "kind": "StorageClass",
    "metadata": {
        "name": "standard",
        "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
    },
    "provisioner": PROVISIONER,
    "reclaimPolicy": "Delete",
    "volumeBindingMode": "WaitForFirstConsumer",
}
"""The default class, named and behaving as kind's."""

_CNI = {
    "cniVersion": "1.0.0",
    "name": "pods",
    "plugins": [
        {
            # Point to point rather than a bridge: all traffic is routed, so that kube-proxy sees
            # it whether or not the kernel passes bridged traffic to its filters.
            "type": "ptp",
            "ipam": {
                "type": "host-local",
                "dataDir": "/run/cni",
                "ranges": [[{"subnet": POD_RANGE}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }
    ],
}

_UNUSED = ("internal.v1.opt", "nri.v1.nri", "image-verifier.v1.bindir", "tracing.processor.v1.otlp")
"""Plug-ins of containerd that would make folders on the host or wait for what is not here."""

SECOND_DOMAIN = "cluster.example"
"""DNS serves the cluster under this domain too, for programs that are given another domain."""

_COREFILE = f"""\
.:53 {{{{
    errors
    ready :{DNS_READY_PORT}
    cache {{{{
        success 1000 5
        denial 1000 1
    }}}}
    kubernetes cluster.local {SECOND_DOMAIN} in-addr.arpa {{{{
        kubeconfig {{}}
        pods insecure
    }}}}
}}}}
"""
"""Names of the cluster only: its pods have no way out, so other names are refused at once."""
