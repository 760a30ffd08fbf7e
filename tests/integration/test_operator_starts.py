"""A gang that does not get to run in time gives its GPUs back, and stands back for a while."""

from __future__ import annotations

from datetime import datetime

import pytest

from tests.support.kubelet import Kubelet
from tests.support.process import OperatorProcess
from tests.support.waiting import eventually
from tests.support.yard import Yard, condition, phase, scaling

START_TIMEOUT = 15
"""Seconds: long enough for all that a job that does start has to do, on a busy machine."""

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("operator")]


@pytest.fixture(scope="module")
def operator_options() -> tuple[str, ...]:
    return ("--start-timeout", f"{START_TIMEOUT}s")


async def test_a_start_that_times_out_lets_the_next_job_in(
    yard: Yard, kubelet: Kubelet, operator: OperatorProcess
) -> None:
    await yard.add_nodes(2, is_attended=False)
    kubelet.starts = False
    await yard.submit("stuck", 2)
    await yard.until_phase("stuck", "Starting")

    async def bound() -> None:
        pods = await yard.pods("stuck")
        assert [bool(p["spec"].get("nodeName")) for p in pods] == [True] * 3

    await eventually(bound)
    for pod in await yard.pods("stuck"):
        await kubelet.block(pod, "ImagePullBackOff", "no such image")
    await yard.submit("next", 2)
    await yard.until_phase("next", "Waiting")
    kubelet.starts = True
    job = await yard.until(
        "stuck", lambda job: condition(job, "Admitted")["reason"] == "StartTimedOut", seconds=60
    )
    assert condition(job, "Degraded")["status"] == "True"
    assert "spec.image 'trainyard-trainer:test' cannot be pulled" in _told(job)
    decided, until = scaling(job)["decisionTime"], scaling(job)["cooldownEndTime"]
    pause = datetime.fromisoformat(until) - datetime.fromisoformat(decided)
    assert 120 <= pause.total_seconds() <= 120 + START_TIMEOUT + 16
    await yard.until_phase("next", "Running")
    # Its successor knows of the pause, although the GPUs are free.
    operator.kill()
    operator.start()
    operator.wait_until_ready()
    await yard.delete("next")
    await yard.submit("third", 1)
    await yard.until_phase("third", "Running")
    assert phase(await yard.get("stuck")) == "Waiting"
    assert await yard.pods("stuck") == []


def _told(job: dict[str, object]) -> str:
    return str(condition(job, "Degraded")["message"])
