"""Calls to a cluster by kubectl, which knows every way to prove who we are."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.localcluster.commands import run

SIMULATED_GPUS = "trainyard.dev/simulated-gpus"
"""The label of nodes whose GPUs are none: pods that request them train on the CPU."""


@dataclass(frozen=True, slots=True)
class Kubectl:
    """A kubectl and the cluster it speaks to."""

    program: Path
    kubeconfig: Path

    def __call__(self, *words: str, stdin: str | None = None) -> str:
        """Run a command of kubectl; returns what it printed."""
        return run([self.program, "--kubeconfig", self.kubeconfig, *words], stdin=stdin)

    def items(self, *words: str) -> list[dict[str, Any]]:
        """The objects that `kubectl get` finds."""
        found: list[dict[str, Any]] = json.loads(self("get", *words, "--output=json"))["items"]
        return found

    def create(self, objects: list[dict[str, Any]]) -> None:
        """Create objects."""
        document = {"apiVersion": "v1", "kind": "List", "items": objects}
        self("create", "--filename=-", stdin=json.dumps(document))

    def advertise_gpus(self, node: str, count: int) -> None:
        """Have a node without GPUs advertise some; its kubelet keeps what it is told."""
        self("label", "node", node, f"{SIMULATED_GPUS}=true", "--overwrite")
        gpus = {"nvidia.com/gpu": str(count)}
        patch = json.dumps({"status": {"capacity": gpus, "allocatable": gpus}})
        self("patch", "node", node, "--subresource=status", "--type=merge", f"--patch={patch}")

    def node_summary(self) -> str:
        """How many nodes there are, and are ready, in a few words."""
        nodes = self.items("nodes")
        return f"{sum(map(is_ready, nodes))} of {len(nodes)} nodes are Ready"


def is_ready(node: dict[str, Any]) -> bool:
    """Whether a node's condition Ready holds."""
    conditions = node.get("status", {}).get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
