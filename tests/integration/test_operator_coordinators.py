"""Coordinators that are not reached, or refuse a Plan: conditions, and one replacement."""

from __future__ import annotations

import json

import pytest

from tests.support.coordinators import (
    HONEST,
    CoordinatorKubelet,
    PlayedCoordinator,
    accept,
    constant,
    counting,
)
from tests.support.manifests import Object
from tests.support.testbed import Testbed, condition, training
from tests.support.waiting import consistently

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("operator")]


@pytest.fixture(scope="module")
def operator_options() -> tuple[str, ...]:
    return (
        "--reach=direct",
        "--scrape-interval=1s",
        "--unreachable-timeout=2s",
        "--replace-timeout=5s",
    )


def is_healthy(job: Object) -> bool:
    return bool(condition(job, "Degraded")["status"] == "False")


async def test_a_coordinator_that_does_not_answer_is_replaced_once(testbed: Testbed) -> None:
    await testbed.add_nodes(1, is_attended=False)
    played: dict[str, PlayedCoordinator] = {}
    async with CoordinatorKubelet(testbed, played):
        await testbed.submit("digits")
        job = await testbed.wait_for(
            "digits", lambda job: condition(job, "CoordinatorReachable")["status"] == "False"
        )
        assert condition(job, "CoordinatorReachable")["reason"] == "NoAnswer"
        await testbed.wait_for(
            "digits", lambda job: condition(job, "Degraded")["reason"] == "CoordinatorUnreachable"
        )
        await testbed.wait_for_pods("digits", "coordinator-2", "worker-0-1")

        async def unchanged() -> None:
            pods = await testbed.pods("digits", "coordinator")
            assert [p["metadata"]["name"] for p in pods] == ["digits-coordinator-2"]

        await consistently(unchanged, 8)
        job = await testbed.get("digits")
        assert "It was replaced once" in condition(job, "Degraded")["message"]
        assert job["status"].get("restarts", 0) == 0
        played["digits"] = counting()
        await testbed.client.delete(testbed.path("pods", "digits-coordinator-2"))
        job = await testbed.wait_for(
            "digits", lambda job: condition(job, "CoordinatorReachable")["status"] == "True"
        )
        await testbed.wait_for("digits", is_healthy)


async def test_a_coordinator_without_members_is_replaced_once(testbed: Testbed) -> None:
    await testbed.add_nodes(1, is_attended=False)
    alone = PlayedCoordinator(constant(HONEST.replace(b'"active"} 1.0', b'"active"} 0.0')))
    async with CoordinatorKubelet(testbed, {"digits": alone}):
        await testbed.submit("digits")
        await testbed.wait_for_pods("digits", "coordinator-2", "worker-0-1")
        job = await testbed.get("digits")
        assert condition(job, "CoordinatorReachable")["reason"] == "NoMembers"
        assert "PUT /v1/plan" in alone.requests


async def test_a_refused_plan_is_a_condition_and_metrics_are_read_on(testbed: Testbed) -> None:
    await testbed.add_nodes(1, is_attended=False)
    coordinator = counting()
    refusal = json.dumps({"error": "plan.workers:\n\x1b[31m no"}).encode()
    coordinator.plan = constant(refusal, 400)
    async with CoordinatorKubelet(testbed, {"digits": coordinator}):
        await testbed.submit("digits")
        job = await testbed.wait_for(
            "digits", lambda job: condition(job, "Degraded")["reason"] == "PlanRefused"
        )
        message = condition(job, "Degraded")["message"]
        assert message.startswith("The coordinator refuses the Plan: plan.workers: \ufffd[31m no.")
        step = training(job)["step"]
        await testbed.wait_for("digits", lambda job: training(job)["step"] > step)
        coordinator.plan = accept
        await testbed.wait_for("digits", is_healthy)
