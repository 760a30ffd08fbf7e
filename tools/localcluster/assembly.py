"""Putting a local control plane together: its certificates, kubeconfigs and command lines."""

from __future__ import annotations

from pathlib import Path

from tools.localcluster.binaries import Binaries
from tools.localcluster.controlplane import KUBERNETES_SERVICE, ControlPlane, Endpoints
from tools.localcluster.credentials import Authority, Pair, kubeconfig
from tools.localcluster.node import NODE
from tools.localcluster.options import ClusterOptions
from tools.localcluster.state import State

_USERS = {
    "admin": ("trainyard-admin", "system:masters"),
    "controller-manager": ("system:kube-controller-manager", ""),
    "scheduler": ("system:kube-scheduler", ""),
    "node": (f"system:node:{NODE}", "system:nodes"),
    "proxy": ("system:kube-proxy", ""),
}
"""Who the components are to the API server: the names its built-in roles are bound to."""


def assemble(
    state: State, options: ClusterOptions, binaries: Binaries, endpoints: Endpoints
) -> ControlPlane:
    """Write a cluster's certificates and kubeconfigs and describe its control plane."""
    authority = Authority(state.root / "pki")
    clients = {part: authority.issue(part, *_USERS[part]) for part in _USERS}
    kubeconfigs = {
        part: _write_kubeconfig(state, part, options.name, endpoints, authority.pair, clients[part])
        for part in _USERS
    }
    return ControlPlane(
        binaries=binaries,
        endpoints=endpoints,
        root=state.root,
        authority=authority.pair,
        server=authority.issue("server", "kube-apiserver", hosts=_hosts(endpoints)),
        admin=clients["admin"],
        service_accounts=authority.service_account_keys(),
        kubeconfigs=kubeconfigs,
        stock_limits=options.stock_limits,
        reaches_pods=not options.control_plane_only,
    )


def _hosts(endpoints: Endpoints) -> tuple[str, ...]:
    names = ("localhost", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")
    return (endpoints.address, endpoints.advertised, KUBERNETES_SERVICE, *names)


def _write_kubeconfig(
    state: State, part: str, name: str, endpoints: Endpoints, authority: Pair, client: Pair
) -> Path:
    path = state.kubeconfig if part == "admin" else state.root / "pki" / f"{part}.kubeconfig"
    path.touch(mode=0o600)
    path.write_text(kubeconfig(name, endpoints.server, authority.certificate, client))
    return path
