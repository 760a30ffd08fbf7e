"""Simulated nodes (KWOK): nodes without a machine, whose pods are Running without a process.

Nothing lands on them by accident: a pod needs a toleration of their taint, and one that must land
there a selector for their label, both being `trainyard.dev/simulated=true`.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from tools.localcluster.binaries import ensure_binaries
from tools.localcluster.kubectl import SIMULATED_GPUS, Kubectl, is_ready
from tools.localcluster.processes import Process, start_supervisor
from tools.localcluster.state import State
from tools.localcluster.waiting import wait_for

SIMULATED = "trainyard.dev/simulated"
"""The key of both the label and the taint (effect NoSchedule); its value is `true`."""

_ANNOTATION, _VALUE = "kwok.x-k8s.io/node", "fake"
_STAGES = Path(__file__).parent / "simulation.yaml"
_LEASE_SECONDS = 40
_POD_RANGE, _NODE_ADDRESS = "239.255.0.1/16", "239.255.255.254"
"""Multicast: the API server takes them, and no system connects to them. KWOK's own (10.0.0.1
and up) may be somebody's, who would be asked for the coordinators that have no process."""
_READY = timedelta(seconds=120)


def kwok(program: Path, kubeconfig: Path, port: int = 10247) -> Process:
    """The controller of simulated nodes: it answers for those that carry its annotation."""
    flags = {
        "cidr": _POD_RANGE,
        "config": _STAGES,
        "kubeconfig": kubeconfig,
        "manage-nodes-with-annotation-selector": f"{_ANNOTATION}={_VALUE}",
        "node-lease-duration-seconds": _LEASE_SECONDS,
        "node-ip": _NODE_ADDRESS,
        "server-address": f"127.0.0.1:{port}",
        "v": "WARN",  # else it tells of every lease that it renews
    }
    return Process("kwok", [str(program), *(f"--{name}={flags[name]}" for name in flags)])


def run_kwok(state: State) -> None:
    """Run the controller on this machine, for a cluster that is not made of its processes."""
    if state.supervisor() is None:
        binaries = ensure_binaries()
        state.logs.mkdir(parents=True, exist_ok=True)
        supervisor = start_supervisor(binaries["supervisor"], state, isolated=False)
        supervisor.launch([kwok(binaries["kwok"], state.kubeconfig)], state.logs)


def simulated_node(index: int, gpus: int) -> dict[str, Any]:
    """Render one node; the annotation is what makes KWOK answer for it."""
    name = f"simulated-{index:03d}"
    capacity = {
        "cpu": "64",
        "memory": "512Gi",
        "ephemeral-storage": "1Ti",
        "pods": "250",
        "nvidia.com/gpu": str(gpus),
    }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {_ANNOTATION: _VALUE},
            "labels": {
                SIMULATED: "true",
                SIMULATED_GPUS: "true",
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": "amd64",
                "nvidia.com/gpu.product": "Simulated",
            },
        },
        "spec": {"taints": [{"key": SIMULATED, "value": "true", "effect": "NoSchedule"}]},
        "status": {"capacity": capacity, "allocatable": capacity},
    }


def add_simulated_nodes(kubectl: Kubectl, count: int, gpus: int) -> None:
    """Create what is missing of the simulated nodes and wait until all are Ready."""
    existing = {node["metadata"]["name"] for node in _nodes(kubectl)}
    wanted = [simulated_node(index, gpus) for index in range(count)]
    missing = [node for node in wanted if node["metadata"]["name"] not in existing]
    if missing:
        kubectl.create(missing)
    wait_for(
        f"{count} simulated nodes",
        lambda: sum(map(is_ready, _nodes(kubectl))) >= count,
        _READY,
        lambda: f"{sum(map(is_ready, _nodes(kubectl)))} are ready",
    )


def _nodes(kubectl: Kubectl) -> list[dict[str, Any]]:
    return kubectl.items("nodes", f"--selector={SIMULATED}=true")
