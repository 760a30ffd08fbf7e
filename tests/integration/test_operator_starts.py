"""A gang that does not start in time releases its GPUs and is not admitted for a while."""

from __future__ import annotations

from datetime import datetime

import pytest

from tests.support.kubelet import Kubelet
from tests.support.process import OperatorProcess
from tests.support.testbed import Testbed, condition, phase, scaling
from tests.support.waiting import eventually

START_TIMEOUT = 15
"""Seconds, enough for a job that does start on a busy machine."""

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("operator")]


@pytest.fixture(scope="module")
def operator_options() -> tuple[str, ...]:
    return ("--start-timeout", f"{START_TIMEOUT}s")


async def test_a_start_that_times_out_releases_its_gpus_to_the_next_job(
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
    assert "spec.image 'trainyard-trainer:test' cannot be pulled" in _degraded_message(job)
    start, end = scaling(job)["decisionTime"], scaling(job)["cooldownEndTime"]
    backoff = datetime.fromisoformat(end) - datetime.fromisoformat(start)
    assert 120 <= backoff.total_seconds() <= 120 + START_TIMEOUT + 16
    await testbed.wait_for_phase("next", "Running")
    # The restarted operator observes the backoff, although the GPUs are free.
    operator.kill()
    operator.start()
    operator.wait_until_ready()
    await testbed.delete("next")
    await testbed.submit("third", 1)
    await testbed.wait_for_phase("third", "Running")
    assert phase(await testbed.get("stuck")) == "Waiting"
    assert await testbed.pods("stuck") == []


def _degraded_message(job: dict[str, object]) -> str:
    return str(condition(job, "Degraded")["message"])
