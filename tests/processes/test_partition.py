"""A coordinator that is cut off after it has received the model and before it answers."""

from pathlib import Path

import pytest

from tests.processes.job import Job
from tests.processes.partition import Partition
from tests.processes.running import DEADLINE, until
from tests.processes.test_elastic import assert_like_one_process
from trainyard_trainer.contract.env import RESULT_FILE


@pytest.mark.parametrize(
    "is_durable", [True, False], ids=["which had stored it", "whose state is lost with it"]
)
def test_the_job_completes_with_the_next_coordinator(tmp_path: Path, is_durable: bool) -> None:
    with (
        Job(tmp_path, min_workers=2, durable=is_durable) as job,
        Partition(job.port, cut_after="kind=model") as network,
    ):
        job.workers_port = network.port
        job.start("a", "b")
        job.wait_for_active(2)
        job.gate.touch()
        assert network.is_cut.wait(DEADLINE)
        until((job.state / RESULT_FILE).exists, "the model is stored")
        assert all(worker.is_alive() for worker in job.members.values())
        job.kill_coordinator()
        if not is_durable:
            job.state_name = "elsewhere"
        job.start_coordinator()
        job.plan(2, generation=2)
        network.forward_to(job.port)
        assert_like_one_process(job, job.finish())
