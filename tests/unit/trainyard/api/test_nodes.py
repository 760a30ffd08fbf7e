"""Nodes and tolerations as Kubernetes means them."""

from __future__ import annotations

from typing import Any

import pytest

from trainyard.api.cluster import Node, Taint, Toleration
from trainyard.api.names import LABEL_SIMULATED_GPUS
from trainyard.api.nodes import accelerator_label, have_real_devices, parse_node

READY = {"conditions": [{"type": "Ready", "status": "True"}]}


def node(status: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "n0", "resourceVersion": "1", "labels": {"zone": "a"}},
        "spec": spec,
        "status": status,
    }


def test_resources_are_what_is_allocatable() -> None:
    amounts = {"cpu": "8", "memory": "64Gi", "nvidia.com/gpu": "4", "hugepages-2Mi": "0"}
    parsed = parse_node(node({**READY, "allocatable": amounts}))
    expected = {"cpu": 8000, "memory": 64 * 2**30, "nvidia.com/gpu": 4}
    assert (parsed.allocatable, parsed.labels) == (expected, {"zone": "a"})


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        pytest.param(node(READY), True, id="ready"),
        pytest.param(node(READY, unschedulable=True), False, id="cordoned"),
        pytest.param(node(None), False, id="no status yet"),
        pytest.param(
            node({"conditions": [{"type": "Ready", "status": "Unknown"}]}), False, id="lost"
        ),
    ],
)
def test_a_node_is_ready_when(raw: dict[str, Any], expected: bool) -> None:
    assert parse_node(raw).is_ready is expected


def test_a_taint_may_have_no_value() -> None:
    taints = [{"key": "gpu", "effect": "NoSchedule"}, {"key": "a", "value": "b", "effect": "x"}]
    assert parse_node(node(READY, taints=taints)).taints == (
        Taint(key="gpu"),
        Taint(key="a", value="b", effect="x"),
    )


@pytest.mark.parametrize("taint", ["unschedulable", "not-ready", "unreachable"])
def test_taints_of_a_node_that_is_not_ready_are_left_to_its_readiness(taint: str) -> None:
    """Kubernetes removes them once the node is ready."""
    taints = [{"key": f"node.kubernetes.io/{taint}", "effect": "NoSchedule"}]
    assert parse_node(node(READY, taints=taints)).taints == ()


@pytest.mark.parametrize(
    ("toleration", "expected"),
    [
        pytest.param(Toleration(key="team", value="a"), True, id="equal"),
        pytest.param(Toleration(key="team", value="b"), False, id="another value"),
        pytest.param(Toleration(key="team", operator="Exists"), True, id="exists"),
        pytest.param(Toleration(operator="Exists"), True, id="everything"),
        pytest.param(Toleration(key="other", operator="Exists"), False, id="another key"),
        pytest.param(Toleration(key="team", value="a", effect="NoExecute"), False, id="effect"),
        pytest.param(Toleration(value="a"), False, id="a value of no key"),
    ],
)
def test_a_toleration_matches_a_taint_as_in_kube_scheduler(
    toleration: Toleration, expected: bool
) -> None:
    assert toleration.tolerates(Taint(key="team", value="a")) is expected


GPUS = {"cpu": 8000, "nvidia.com/gpu": 8}
CPUS = {"cpu": 8000}


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        pytest.param([(GPUS, "zone gpu.present"), (CPUS, "zone")], "gpu.present", id="one label"),
        pytest.param([(GPUS, "b a"), (GPUS, "a b c"), (CPUS, "z")], "a", id="the first of several"),
        pytest.param([(GPUS, "gpu"), (CPUS, "gpu")], "", id="a label of both"),
        pytest.param([(GPUS, "nvidia"), (GPUS, "amd"), (CPUS, "")], "", id="a label of some"),
        pytest.param([(GPUS, "gpu")], "", id="accelerators everywhere"),
        pytest.param([(CPUS, "zone")], "", id="accelerators nowhere"),
        pytest.param([], "", id="no nodes"),
    ],
)
def test_a_label_tells_nodes_with_accelerators_apart(
    nodes: list[tuple[dict[str, int], str]], expected: str
) -> None:
    found = accelerator_label(
        Node(name="n", allocatable=amounts, labels=dict.fromkeys(labels.split(), "x"))
        for amounts, labels in nodes
    )
    assert found == expected


GPU = "nvidia.com/gpu"
REAL = Node(name="real", allocatable={GPU: 8}, labels={"zone": "a"})
SIMULATED = Node(
    name="simulated", allocatable={GPU: 8}, labels={"zone": "b", LABEL_SIMULATED_GPUS: "true"}
)


@pytest.mark.parametrize(
    ("nodes", "selector", "expected"),
    [
        pytest.param([REAL], {}, True, id="real ones"),
        pytest.param([SIMULATED], {}, False, id="simulated ones"),
        pytest.param([REAL, SIMULATED], {}, True, id="either"),
        pytest.param([REAL, SIMULATED], {"zone": "b"}, False, id="those selected are simulated"),
        pytest.param([REAL, SIMULATED], {"zone": "a"}, True, id="those selected are real"),
        pytest.param([SIMULATED], {"zone": "c"}, True, id="nodes that are yet to come"),
        pytest.param([Node(name="cpu", labels=SIMULATED.labels)], {}, True, id="none at all"),
        pytest.param(
            [Node(name="no", allocatable={GPU: 8}, labels={LABEL_SIMULATED_GPUS: "false"})],
            {},
            True,
            id="labelled as not simulated",
        ),
    ],
)
def test_devices_are_real_unless_all_nodes_that_offer_them_say_otherwise(
    nodes: list[Node], selector: dict[str, str], expected: bool
) -> None:
    assert have_real_devices(nodes, GPU, selector) is expected
