"""The network of one local cluster: a namespace of its own, joined to this host by one cable.

The host's firewall rules stay untouched, and the cable goes when the namespace does.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tools.localcluster.commands import run
from tools.localcluster.errors import ClusterError

SERVICE_RANGE = "10.96.0.0/16"
POD_RANGE = "10.244.0.0/16"
"""The same in every cluster: pods are seen from within their namespace only."""

_CABLES = ipaddress.ip_network("10.253.0.0/24")
"""Each cluster takes four addresses of it, two of which are usable: the host's and its own."""

_PRIVATE_SYSCTLS = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1_000_000,
    "kernel/keys/root_maxbytes": 25_000_000,
}
"""What a kubelet sets on its machine; it finds these values already, and the host keeps its own."""


@dataclass(frozen=True, slots=True)
class Namespaces:
    """The namespaces of a cluster, by a process within them."""

    pid: int

    def enter(self, args: Iterable[str | Path]) -> list[str]:
        """Turn a command into one that sees the cluster's network and mounts.

        `ip netns exec` would mount /sys anew and hide the control groups.
        """
        words = [str(arg) for arg in args]
        return ["nsenter", f"--target={self.pid}", "--net", "--mount", "--", *words]

    def run(self, *args: str | Path, stdin: str | None = None) -> str:
        """Run a command within the namespaces."""
        return run(self.enter(args), stdin=stdin)


def free_cable(taken: Iterable[str]) -> tuple[str, str]:
    """Pick the addresses of host and cluster from those that no route of this host covers."""
    routes = [ipaddress.ip_network(route, strict=False) for route in taken if route != "default"]
    for cable in _CABLES.subnets(new_prefix=30):
        if not any(route.overlaps(cable) for route in routes if route.version == 4):
            host, cluster = cable.hosts()
            return str(host), str(cluster)
    raise ClusterError(
        f"No addresses are left in {_CABLES}: take down clusters that are not used "
        "(`python -m tools.localcluster down --name …`)."
    )


def furnish(namespaces: Namespaces, name: str) -> str:
    """Make namespaces fit for a cluster; returns the address at which the host reaches it."""
    routes = json.loads(run(["ip", "-4", "-json", "route"]))
    host, cluster = free_cable(route["dst"] for route in routes)
    device = f"ty-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    peer = ("peer", "name", "eth0", "netns", str(namespaces.pid))
    run(["ip", "link", "add", device, "type", "veth", *peer])
    run(["ip", "address", "add", f"{host}/30", "dev", device])
    run(["ip", "link", "set", device, "up"])
    namespaces.run("sh", "-eu", stdin=_script(cluster))
    return cluster


def _script(address: str) -> str:
    """What is done inside: addresses, forwarding, and own copies of what others would share."""
    lines = [
        "ip link set lo up",
        f"ip address add {address}/30 dev eth0",
        "ip link set eth0 up",
        # What runs on the node itself must find a way before kube-proxy can redirect it.
        f"ip route add {SERVICE_RANGE} dev eth0 src {address}",
        "echo 1 > /proc/sys/net/ipv4/ip_forward",
        # Sockets, symbolic links to logs and leases of pod addresses have fixed places.
        "mkdir -p /var/lib/cni",
        *(f"mount -t tmpfs tmpfs {folder}" for folder in ("/run", "/var/log", "/var/lib/cni")),
        "mkdir /run/lock /run/sysctl",
    ]
    for name, value in _PRIVATE_SYSCTLS.items():
        copy = f"/run/sysctl/{name.replace('/', '.')}"
        lines += [f"echo {value} > {copy}", f"mount --bind {copy} /proc/sys/{name}"]
    return "\n".join(lines)
