"""The operator's /healthz and metrics."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.kubelet import Kubelet
from tests.support.process import OperatorProcess
from tests.support.testbed import Testbed
from tests.support.waiting import eventually

pytestmark = pytest.mark.integration

Samples = dict[tuple[str, tuple[str, ...]], float]


def read(operator: OperatorProcess) -> Samples:
    """The samples by name and label values, these in the order of their labels."""
    families = text_string_to_metric_families(operator.metrics())
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


async def test_metrics_follow_the_jobs(
    testbed: Testbed, kubelet: Kubelet, operator: OperatorProcess
) -> None:
    assert operator.health() == 200
    before = read(operator)
    await testbed.add_nodes(4, is_attended=False)
    await testbed.submit("running", 2)
    await testbed.submit("waiting", 4)
    await testbed.wait_for_phase("running", "Running")
    await testbed.wait_for_phase("waiting", "Waiting")
    [worker, _] = await testbed.pods("running", "worker")
    await kubelet.fail(worker, "broken")
    await testbed.wait_for_pods("running", "coordinator-1", "worker-0-2", "worker-1-1")
    await testbed.wait_for_phase("running", "Running")

    def increase(name: str, *labels: str) -> float:
        return read(operator).get((name, labels), 0.0) - before.get((name, labels), 0.0)

    async def updated() -> None:
        now = read(operator)
        assert now.get(("trainyard_operator_jobs", ("DistributedJob", "Running"))) == 1
        assert now.get(("trainyard_operator_jobs", ("DistributedJob", "Waiting"))) == 1
        assert now.get(("trainyard_operator_queue_depth", ("reconcile",))) == 0
        # No coordinator serves here; when a scrape fails depends on the connection.
        assert increase("trainyard_operator_scrapes_total", "failed") >= 1

    await eventually(updated)
    assert increase("trainyard_operator_reconciles_total", "ok") >= 4
    assert increase("trainyard_operator_reconcile_seconds_count") >= 4
    assert increase("trainyard_operator_decisions_total", "applied", "Admitted") == 1
    assert increase("trainyard_operator_decision_seconds_count") >= 1
    assert increase("trainyard_operator_pod_failures_total", "worker") == 1
    assert increase("trainyard_operator_api_requests") >= 10
    assert read(operator)["trainyard_operator_api_concurrency_limit", ()] >= 2


async def test_a_deleted_job_is_not_counted(testbed: Testbed, operator: OperatorProcess) -> None:
    await testbed.add_nodes(4)
    await testbed.submit("digits", 1)
    await testbed.wait_for_phase("digits", "Running")
    await testbed.delete("digits")

    async def none() -> None:
        assert (
            read(operator).get(("trainyard_operator_jobs", ("DistributedJob", "Running")), 0.0)
            == 0.0
        )

    await eventually(none)
