"""Workers that cannot take part, beside others that train."""

from pathlib import Path

import pytest

from tests.processes.job import Job
from tests.processes.test_elastic import assert_like_one_process
from trainyard_trainer.contract.env import DEVICE_REQUIRED, ENV_DEVICE
from trainyard_trainer.contract.exits import Exit


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("invalid", "no data on this node"),
        ("memory", "out of memory"),
        ("model", "b differs from the other workers"),
    ],
)
def test_a_joiners_own_fault_leaves_it_out_and_costs_the_others_nothing(
    tmp_path: Path, fault: str, sentence: str
) -> None:
    with Job(tmp_path, task="Unlike", args={"fault": fault, "pods": "b"}) as job:
        job.start("a", workers=2)
        job.wait_for_active(1)
        job.start_worker("b")
        code, message = job.wait_for_exit("b")
        assert code == Exit.MEMBER_UNFIT
        assert sentence in message.error
        job.start_worker("c")
        job.wait_for_active(2)
        job.finish()


@pytest.mark.parametrize("unreachable", ["a", "b"], ids=["who trains", "who joins"])
def test_a_joiner_is_left_out_where_either_side_cannot_connect(
    tmp_path: Path, unreachable: str
) -> None:
    with Job(tmp_path) as job:
        job.start_coordinator()
        job.plan(2)
        job.start_worker("a", unreachable=unreachable == "a")
        job.wait_for_active(1)
        job.start_worker("b", unreachable=unreachable == "b")
        code, message = job.wait_for_exit("b")
        assert code == Exit.MEMBER_UNFIT
        assert "b and the workers that train cannot connect to each other" in message.error
        job.wait_for_active(1)
        if unreachable == "b":
            job.start_worker("c")
            job.wait_for_active(2)
        assert_like_one_process(job, job.finish())


def test_a_fault_that_all_have_is_the_jobs(tmp_path: Path) -> None:
    with Job(tmp_path, task="Unlike", args={"fault": "invalid", "pods": "ab"}) as job:
        job.start("a", "b")
        for name in ("a", "b"):
            code, _ = job.wait_for_exit(name)
            assert code == Exit.TASK_INVALID


@pytest.mark.parametrize("others", [("a",), ()], ids=["while another trains", "alone"])
def test_a_worker_without_the_gpu_that_it_requests_says_so(
    tmp_path: Path, others: tuple[str, ...]
) -> None:
    with Job(tmp_path) as job:
        job.start(*others, workers=2)
        if others:
            job.wait_for_active(1)
        job.start_worker("b", {ENV_DEVICE: DEVICE_REQUIRED, "CUDA_VISIBLE_DEVICES": ""})
        code, message = job.wait_for_exit("b")
        assert code == Exit.NO_DEVICE
        assert message.error.startswith("this pod requests a GPU, and PyTorch finds none: ")
        if others:
            job.start_worker("c")
            job.wait_for_active(2)
            job.finish()
