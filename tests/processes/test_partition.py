"""A coordinator that is cut off after it has received the model and before it answers."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from tests.processes.job import Job
from tests.processes.partition import Partition
from tests.processes.running import DEADLINE, until
from tests.processes.test_elastic import assert_like_one_process
from trainyard_trainer.contract.env import RESULT_FILE
from trainyard_trainer.contract.exits import Result


@contextlib.contextmanager
def job_cut_off_at_its_end(folder: Path, *, durable: bool) -> Iterator[tuple[Job, Partition]]:
    """A job whose workers wait for an answer to the last upload, and have no coordinator."""
    with (
        Job(folder, min_workers=2, durable=durable) as job,
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
        yield job, network


def test_a_model_that_is_lost_with_its_coordinator_is_uploaded_to_the_next(tmp_path: Path) -> None:
    with job_cut_off_at_its_end(tmp_path, durable=False) as (job, network):
        job.state_name = "elsewhere"
        job.start_coordinator()
        job.plan(2, generation=2)
        network.forward_to(job.port)
        assert_like_one_process(job, job.finish())


def test_a_model_that_was_stored_completes_the_job_with_the_next_coordinator(
    tmp_path: Path,
) -> None:
    with job_cut_off_at_its_end(tmp_path, durable=True) as (job, _):
        job.start_coordinator(wait=False)
        assert job.coordinator is not None
        assert job.coordinator.wait(DEADLINE) == 0
        message = job.termination_message_of("coordinator")
        result = json.loads((job.state / RESULT_FILE).read_text())
        assert (message.result, message.step) == (Result.COMPLETE, result["steps"])
        assert_like_one_process(job, result)
