"""A gang that does not get to run in time gives its GPUs back, and stands back for a while."""

from __future__ import annotations

from datetime import datetime

import pytest

from tests.support.kubelet import Kubelet
from tests.support.process import OperatorProcess
from tests.support.testbed import Testbed, condition, phase, scaling
from tests.support.waiting import eventually

START_TIMEOUT = 15
"""Seconds: long enough for all that a job that does start has to do, on a busy machine."""

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("operator")]


@pytest.fixture(scope="module")
def operator_options() -> tuple[str, ...]:
    return ("--start-timeout", f"{START_TIMEOUT}s")


async def test_a_start_that_times_out_lets_the_next_job_in(
    testbed: Testbed, kubelet: Kubelet, operator: OperatorProcess
) -> None:
    await testbed.add_nodes(2, is_attended=False)
    kubelet.starts = False
    await testbed.submit("stuck", 2)
    await testbed.wait_for_phase("stuck", "Starting")

    async def bound() -> None:
        pods = await testbed.pods("stuck")
        assert [bool(p["spec"].get("nodeName")) for p in pods] == [True] * 3

    await eventually(bound)
    for pod in await testbed.pods("stuck"):
        await kubelet.block(pod, "ImagePullBackOff", "no such image")
    await testbed.submit("next", 2)
    await testbed.wait_for_phase("next", "Waiting")
    kubelet.starts = True
    job = await testbed.wait_for(
        "stuck", lambda job: condition(job, "Admitted")["reason"] == "StartTimedOut", seconds=60
    )
    assert condition(job, "Degraded")["status"] == "True"
    assert "spec.image 'trainyard-trainer:test' cannot be pulled" in _told(job)
    decided, until = scaling(job)["decisionTime"], scaling(job)["cooldownEndTime"]
    pause = datetime.fromisoformat(until) - datetime.fromisoformat(decided)
    assert 120 <= pause.total_seconds() <= 120 + START_TIMEOUT + 16
    await testbed.wait_for_phase("next", "Running")
    # Its successor knows of the pause, although the GPUs are free.
    operator.kill()
    operator.start()
    operator.wait_until_ready()
    await testbed.delete("next")
    await testbed.submit("third", 1)
    await testbed.wait_for_phase("third", "Running")
    assert phase(await testbed.get("stuck")) == "Waiting"
    assert await testbed.pods("stuck") == []


def _told(job: dict[str, object]) -> str:
    return str(condition(job, "Degraded")["message"])
