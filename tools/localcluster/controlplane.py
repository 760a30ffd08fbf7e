"""The command lines of the control plane: pure, the same on the host as in a namespace."""

from __future__ import annotations

import json
import socket
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tools.localcluster.binaries import Binaries
from tools.localcluster.credentials import Pair
from tools.localcluster.network import SERVICE_RANGE
from tools.localcluster.processes import Process
from tools.localcluster.simulation import kwok

KUBERNETES_SERVICE = "10.96.0.1"
"""The first address of the range: the API server's own ClusterIP."""

_RAISED_QPS, _RAISED_BURST = 500, 1000
"""Client limits under which a controller keeps up with hundreds of pods on a test machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """Where the control plane listens."""

    address: str
    """The API server's, reachable from wherever the cluster is used."""
    advertised: str
    """What the `kubernetes` Service leads to; the API server refuses a loopback address here."""
    etcd: int = 2379
    etcd_peer: int = 2380
    api: int = 6443
    kwok: int = 10247

    @property
    def server(self) -> str:
        """The API server's URL."""
        return f"https://{self.address}:{self.api}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlPlane:
    """What the processes of the control plane are made from."""

    binaries: Binaries
    endpoints: Endpoints
    root: Path
    """The cluster's folder: etcd's data goes there."""
    authority: Pair
    server: Pair
    admin: Pair
    service_accounts: Pair
    kubeconfigs: dict[str, Path]
    """One per component that talks to the API server."""
    stock_limits: bool
    reaches_pods: bool
    """Whether there are real nodes behind the `kubernetes` Service."""

    def processes(self) -> list[Process]:
        """Everything but the real node; simulated ones can be asked for at any time."""
        return [
            self._etcd(),
            self._api_server(),
            self._controllers(),
            self._scheduler(),
            kwok(self.binaries["kwok"], self.kubeconfigs["admin"], self.endpoints.kwok),
        ]

    def _etcd(self) -> Process:
        peers = f"http://127.0.0.1:{self.endpoints.etcd_peer}"
        return self._process(
            "etcd",
            data_dir=self.root / "etcd",
            listen_client_urls=self._etcd_url,
            advertise_client_urls=self._etcd_url,
            listen_peer_urls=peers,
            initial_advertise_peer_urls=peers,
            initial_cluster=f"default={peers}",
            # A test cluster is thrown away, so its data need not survive a loss of power.
            unsafe_no_fsync="true",
            log_level="warn",
        )

    def _api_server(self) -> Process:
        return self._process(
            "kube-apiserver",
            bind_address=self.endpoints.address,
            advertise_address=self.endpoints.advertised,
            secure_port=self.endpoints.api,
            etcd_servers=self._etcd_url,
            service_cluster_ip_range=SERVICE_RANGE,
            authorization_mode="Node,RBAC",
            enable_admission_plugins="NodeRestriction",
            client_ca_file=self.authority.certificate,
            tls_cert_file=self.server.certificate,
            tls_private_key_file=self.server.key,
            # Without a client certificate for kubelets, logs and exec answer nothing.
            kubelet_client_certificate=self.admin.certificate,
            kubelet_client_key=self.admin.key,
            kubelet_preferred_address_types="InternalIP",
            service_account_issuer="https://kubernetes.default.svc.cluster.local",
            service_account_key_file=self.service_accounts.certificate,
            service_account_signing_key_file=self.service_accounts.key,
            endpoint_reconciler_type="lease" if self.reaches_pods else "none",
            feature_gates="UnknownVersionInteroperabilityProxy=false",
        )

    def _controllers(self) -> Process:
        limits = {"kube_api_qps": _RAISED_QPS, "kube_api_burst": _RAISED_BURST}
        return self._process(
            "kube-controller-manager",
            **self._delegated("controller-manager"),
            leader_elect="false",
            secure_port=0,
            use_service_account_credentials="true",
            root_ca_file=self.authority.certificate,
            service_account_private_key_file=self.service_accounts.key,
            **({} if self.stock_limits else limits),
        )

    def _scheduler(self) -> Process:
        path = self.root / "scheduler.json"
        path.write_text(json.dumps(self._scheduler_configuration()))
        return self._process("kube-scheduler", config=path, secure_port=0)

    def _scheduler_configuration(self) -> dict[str, object]:
        connection: dict[str, object] = {"kubeconfig": str(self.kubeconfigs["scheduler"])}
        if not self.stock_limits:
            connection |= {"qps": _RAISED_QPS, "burst": _RAISED_BURST}
        return {
            "apiVersion": "kubescheduler.config.k8s.io/v1",
            "kind": "KubeSchedulerConfiguration",
            "leaderElection": {"leaderElect": False},
            "clientConnection": connection,
        }

    @property
    def _etcd_url(self) -> str:
        return f"http://127.0.0.1:{self.endpoints.etcd}"

    def _delegated(self, component: str) -> dict[str, object]:
        return {"kubeconfig": self.kubeconfigs[component]}

    def _process(self, component: str, **flags: object) -> Process:
        return Process(component, command(self.binaries[component], flags))


def command(program: Path, flags: dict[str, object]) -> list[str]:
    """Spell a command line: `secure_port=0` becomes `--secure-port=0`."""
    return [str(program), *(f"--{name.replace('_', '-')}={flags[name]}" for name in flags)]


def endpoints_on_loopback() -> Endpoints:
    """Pick free ports of this host, for a control plane without a network of its own."""
    with ExitStack() as open_sockets:
        ports = []
        for _ in range(4):
            listener = open_sockets.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            ports.append(listener.getsockname()[1])
    etcd, etcd_peer, api, kwok = ports
    # Nothing listens at the advertised address: it is one of those reserved for documentation.
    return Endpoints(
        address="127.0.0.1",
        advertised="203.0.113.1",
        etcd=etcd,
        etcd_peer=etcd_peer,
        api=api,
        kwok=kwok,
    )
