"""Nodes and tolerations as Kubernetes means them."""

from __future__ import annotations

from typing import Any

import pytest

from trainyard.api.cluster import Taint, Toleration
from trainyard.api.nodes import parse_node

READY = {"conditions": [{"type": "Ready", "status": "True"}]}


def node(status: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "n0", "resourceVersion": "1", "labels": {"zone": "a"}},
        "spec": spec,
        "status": status,
    }


def test_accelerators_are_what_is_allocatable() -> None:
    amounts = {"cpu": "8", "memory": "64Gi", "nvidia.com/gpu": "4", "hugepages-2Mi": "0"}
    parsed = parse_node(node({**READY, "allocatable": amounts}))
    assert (parsed.gpus, parsed.labels) == ({"nvidia.com/gpu": 4}, {"zone": "a"})


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        pytest.param(node(READY), True, id="ready"),
        pytest.param(node(READY, unschedulable=True), False, id="cordoned"),
        pytest.param(node(None), False, id="has said nothing yet"),
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


@pytest.mark.parametrize("rest", ["unschedulable", "not-ready", "unreachable"])
def test_a_node_that_rests_is_still_one_that_could_hold_a_worker(rest: str) -> None:
    """Kubernetes taints it for as long, and readiness says the same."""
    taints = [{"key": f"node.kubernetes.io/{rest}", "effect": "NoSchedule"}]
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
def test_a_toleration_outweighs_a_taint_as_the_scheduler_reads_it(
    toleration: Toleration, expected: bool
) -> None:
    assert toleration.tolerates(Taint(key="team", value="a")) is expected
