"""The configurations and command lines of a local cluster."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools.localcluster.assembly import assemble
from tools.localcluster.binaries import MODULE, Binaries, linker_flags
from tools.localcluster.controlplane import Endpoints, endpoints_on_loopback
from tools.localcluster.node import Node
from tools.localcluster.options import ClusterOptions
from tools.localcluster.processes import Process
from tools.localcluster.simulation import simulated_node
from tools.localcluster.state import State
from trainyard.api.names import LABEL_SIMULATED_GPUS


def _node(root: Path, **options: Any) -> Node:
    root.mkdir()
    state = State(root)
    endpoints = Endpoints(address="10.253.0.2", advertised="10.253.0.2")
    plane = assemble(state, ClusterOptions(**options), Binaries(Path("/bins/key")), endpoints)
    return Node(plane=plane, cluster="mine", runc=Path("/sbin/runc"), cni=Path("/usr/lib/cni"))


def _by_name(processes: list[Process]) -> dict[str, Process]:
    return {process.name: process for process in processes}


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return _node(tmp_path / "cluster")


def test_every_file_on_a_command_line_exists(node: Node) -> None:
    for process in (*node.plane.processes(), *node.processes()):
        for argument in process.args[1:]:
            path = Path(argument.partition("=")[2] or argument)
            if path.is_absolute() and path.suffix in {".crt", ".key", ".json", ".toml", ".yaml"}:
                assert path.exists(), (process.name, argument)


def test_the_api_server_can_reach_kubelets(node: Node) -> None:
    arguments = _by_name(node.plane.processes())["kube-apiserver"].args
    assert any(each.startswith("--kubelet-client-certificate=") for each in arguments)


def test_limits_of_clients_are_raised_unless_stock_ones_are_asked_for(tmp_path: Path) -> None:
    raised = _node(tmp_path / "raised")
    stock = _node(tmp_path / "stock", stock_limits=True)
    for node, expected in ((raised, True), (stock, False)):
        processes = _by_name(node.plane.processes())
        controllers = processes["kube-controller-manager"].args
        scheduler = json.loads((node.plane.root / "scheduler.json").read_text())
        assert any("--kube-api-qps" in each for each in controllers) is expected
        assert ("qps" in scheduler["clientConnection"]) is expected
        assert ("kubeAPIQPS" in node.kubelet_configuration()) is expected


def test_the_kubelet_shares_the_processor_in_short_periods(node: Node) -> None:
    configuration = node.kubelet_configuration()
    assert configuration["cpuCFSQuotaPeriod"] == "10ms"
    assert configuration["featureGates"] == {"CustomCPUCFSQuotaPeriod": True}
    assert configuration["maxPods"] >= 200


def test_the_configuration_of_containerd_can_be_read(node: Node) -> None:
    node.processes()
    configuration = tomllib.loads((node.plane.root / "containerd.toml").read_text())
    plugins = configuration["plugins"]
    runtime = plugins["io.containerd.cri.v1.runtime"]
    images = plugins["io.containerd.cri.v1.images"]
    assert runtime["restrict_oom_score_adj"] is True
    assert runtime["cni"]["bin_dirs"] == ["/usr/lib/cni"]
    assert images["pinned_images"]["sandbox"] == node.pause_image


def test_braces_of_the_corefile_are_balanced_and_it_names_the_kubeconfig(node: Node) -> None:
    node.processes()
    text = (node.plane.root / "Corefile").read_text()
    assert text.count("{") == text.count("}") == 3
    assert f"kubeconfig {node.plane.root}/kubeconfig" in text


def test_the_kubeconfig_is_private_and_leads_to_the_server(node: Node) -> None:
    path = node.plane.root / "kubeconfig"
    document = yaml.safe_load(path.read_text())
    assert path.stat().st_mode & 0o077 == 0
    assert document["clusters"][0]["cluster"]["server"] == "https://10.253.0.2:6443"


def test_a_control_plane_on_this_host_takes_ports_of_its_own() -> None:
    endpoints = endpoints_on_loopback()
    ports = {endpoints.etcd, endpoints.etcd_peer, endpoints.api, endpoints.kwok}
    assert len(ports) == 4
    assert endpoints.server == f"https://127.0.0.1:{endpoints.api}"


def test_versions_are_those_of_the_go_module() -> None:
    flags = linker_flags((MODULE / "go.mod").read_text())
    assert "gitVersion=v1.37." in flags
    assert "gitMajor=1 " in flags
    assert "gitMinor=37 " in flags


def test_a_simulated_node_has_a_taint() -> None:
    node = simulated_node(7, 4)
    key = "trainyard.dev/simulated"
    assert node["metadata"]["name"] == "simulated-007"
    assert node["metadata"]["labels"][key] == "true"
    assert node["metadata"]["labels"][LABEL_SIMULATED_GPUS] == "true"
    assert node["spec"]["taints"] == [{"key": key, "value": "true", "effect": "NoSchedule"}]
    assert node["status"]["allocatable"]["nvidia.com/gpu"] == "4"
