"""Quantities, and what a pod requests as kube-scheduler counts it."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainyard.api.resources import (
    MAX_AMOUNT,
    amount,
    container_requests,
    pod_requests,
    taint_keys,
    with_accelerators,
)

GPU, EFA = "nvidia.com/gpu", "vpc.amazonaws.com/efa"


@pytest.mark.parametrize(
    ("resource", "quantity", "expected"),
    [
        (GPU, "1k", 1000),
        (GPU, "8", 8),
        (GPU, 8, 8),
        (GPU, "0", 0),
        (GPU, "1e3", 1000),
        ("cpu", "1500m", 1500),
        ("cpu", "2", 2000),
        ("cpu", 0.5, 500),
        ("cpu", "1n", 1),
        ("memory", "16Gi", 16 * 2**30),
        ("memory", "1.5Ki", 1536),
        ("memory", "1M", 10**6),
        ("memory", "1E", 10**18),
        ("memory", "500m", 1),
        ("memory", "9Ei", MAX_AMOUNT),
        ("memory", "1e999999999", MAX_AMOUNT),
        ("memory", "1e-999999999", 1),
        ("memory", "0e999999999", 0),
    ],
)
def test_a_quantity_is_read_as_the_api_server_reads_it(
    resource: str, quantity: object, expected: int
) -> None:
    assert amount(resource, quantity) == expected


@pytest.mark.parametrize("text", ["", "x", "1x", "Gi", "NaN", "inf", "-1", "1 Gi", "²", "1" * 40])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a quantity"):
        amount("memory", text)


@given(st.text(max_size=20))
def test_no_text_is_read_as_a_negative_or_unbounded_amount(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert 0 <= amount("memory", text) <= MAX_AMOUNT


def container(requests: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"resources": {"requests": requests}, **fields}


def sidecar(requests: dict[str, Any]) -> dict[str, Any]:
    return container(requests, restartPolicy="Always")


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        pytest.param({"containers": [container({}), {}]}, {}, id="nothing but a place"),
        pytest.param({"containers": None}, {}, id="no containers"),
        pytest.param(
            {"containers": [container({GPU: "8", EFA: "32"})]}, {GPU: 8, EFA: 32}, id="RDMA beside"
        ),
        pytest.param(
            {"containers": [{"resources": {"limits": {GPU: "2", "cpu": "1"}}}]},
            {GPU: 2, "cpu": 1000},
            id="limits alone",
        ),
        pytest.param(
            {"containers": [{"resources": {"limits": {"cpu": "2"}, "requests": {"cpu": "1"}}}]},
            {"cpu": 1000},
            id="requests before limits",
        ),
        pytest.param(
            {"containers": [container({"cpu": "1"}), container({"cpu": "1"})]},
            {"cpu": 2000},
            id="containers add up",
        ),
        pytest.param(
            {"initContainers": [sidecar({GPU: "2"})], "containers": [container({GPU: "1"})]},
            {GPU: 3},
            id="a side-car adds up",
        ),
        pytest.param(
            {"initContainers": [container({GPU: "4"})], "containers": [container({GPU: "1"})]},
            {GPU: 4},
            id="an init container runs before",
        ),
        pytest.param(
            {
                "initContainers": [sidecar({"cpu": "1"}), container({"cpu": "3"})],
                "containers": [container({"cpu": "2"})],
            },
            {"cpu": 4000},
            id="an init container runs beside the side-cars before it",
        ),
        pytest.param(
            {
                "initContainers": [container({"cpu": "3"}), sidecar({"cpu": "1"})],
                "containers": [container({"cpu": "1"})],
            },
            {"cpu": 3000},
            id="but not beside those after it",
        ),
        pytest.param(
            {"containers": [container({"cpu": "1"})], "overhead": {"cpu": "250m"}},
            {"cpu": 1250},
            id="overhead",
        ),
        pytest.param(
            {
                "containers": [container({"cpu": "1", GPU: "1"})],
                "resources": {"requests": {"cpu": "3", "memory": "1Ki", GPU: "9"}},
                "overhead": {"cpu": "250m"},
            },
            {"cpu": 3250, "memory": 1024, GPU: 1},
            id="the pod's own requests",
        ),
        pytest.param({"containers": [container({GPU: "what"})]}, {}, id="no quantity"),
        pytest.param({"containers": [container({GPU: "1k"})]}, {GPU: 1000}, id="a suffix"),
    ],
)
def test_a_pod_requests_what_kube_scheduler_counts(
    spec: dict[str, Any], expected: dict[str, int]
) -> None:
    assert pod_requests(spec) == {"pods": 1, **expected}


def test_pods_that_request_the_same_share_one_object() -> None:
    spec = {"containers": [container({"cpu": "1"})]}
    assert pod_requests(spec) is pod_requests({"containers": [container({"cpu": "1000m"})]})


def test_accelerators_are_added_to_the_limits_of_a_container() -> None:
    resources = with_accelerators({"limits": {"cpu": "1"}}, GPU, 2)
    assert container_requests(resources) == {"cpu": 1000, GPU: 2}
    assert with_accelerators({"limits": {"cpu": "1"}}, GPU, 0) == {"limits": {"cpu": "1"}}


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        pytest.param([GPU], (GPU,), id="GPUs"),
        pytest.param(
            ["nvidia.com/mig-1g.5gb"], ("nvidia.com/mig-1g.5gb", GPU), id="a part of a GPU"
        ),
        pytest.param(["cpu", "pods", "hugepages-2Mi"], (), id="none"),
    ],
)
def test_nodes_are_tainted_by_resource_or_by_vendor(
    resources: list[str], expected: tuple[str, ...]
) -> None:
    assert taint_keys(resources) == expected
