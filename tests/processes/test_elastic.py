"""Workers join, leave and are killed during training."""

import re
import signal
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from tests.processes.job import Job
from tests.processes.running import until
from tests.processes.tasks import SPOILED
from trainyard_trainer.contract.config import JobConfig
from trainyard_trainer.contract.env import MODEL_FILE
from trainyard_trainer.contract.exits import Exit, Result, TerminationMessage
from trainyard_trainer.contract.metrics import Metric
from trainyard_trainer.task import load
from trainyard_trainer.training.loop import SingleReplica, train
from trainyard_trainer.training.replica import Replica
from trainyard_trainer.training.snapshot import model_tensors


class NoObserver:
    def committed(self, replica: Replica, compute_seconds: float) -> None:
        pass


def reference(config: JobConfig, epochs: float) -> dict[str, torch.Tensor]:
    """The model that a single process trains with the same configuration."""
    args = {**config.args, "pace": 0.0, "gate": ""}
    args.pop("victims", None)
    task = load("tests.processes.tasks:Line", args)
    plain = JobConfig(task="", batch_size=config.batch_size, epochs=int(epochs), seed=config.seed)
    replica = Replica(task, plain, torch.device("cpu"))
    replica.warm_up()
    train(replica, SingleReplica(replica), NoObserver())
    return model_tensors(replica.model)


def assert_like_one_process(job: Job, result: dict[str, Any]) -> None:
    """Assert that the model is that of one process, with every sample seen once per epoch."""
    assert result["samples_wrong"] == 0
    assert result["epochs_audited"] == result["epochs"]
    assert result["digests_equal"]
    model = safetensors.torch.load_file(job.state / MODEL_FILE)
    for name, expected in reference(job.config, result["epochs"]).items():
        torch.testing.assert_close(model[name], expected.detach(), rtol=1e-9, atol=1e-9)


def wait_for_evaluation(job: Job) -> None:
    previous = job.last_evaluation()
    until(lambda: job.last_evaluation() > previous, "an evaluation")


def test_three_workers_compute_what_one_process_computes(tmp_path: Path) -> None:
    with Job(tmp_path, min_workers=3, args={"pace": 0.0}) as job:
        job.start("a", "b", "c")
        job.wait_for_active(3)
        assert_like_one_process(job, job.finish())


def test_workers_join_and_leave_without_restarting_the_others(tmp_path: Path) -> None:
    with Job(tmp_path) as job:
        job.start("a", workers=3)
        job.wait_for_active(1)
        job.start_worker("b")
        job.start_worker("c")
        job.wait_for_active(3)
        pids = {name: worker.pid for name, worker in job.members.items()}
        job.signal("b")
        code, message = job.wait_for_exit("b")
        assert (code, message.result) == (0, Result.LEFT)
        job.wait_for_active(2)
        assert {"a": pids["a"], "c": pids["c"]} == {n: w.pid for n, w in job.members.items()}
        assert all(worker.is_alive() for worker in job.members.values())
        stall = job.metric(Metric.RESCALE_STALL)
        assert stall is not None
        assert stall < 5.0
        assert (job.metric(Metric.RESCALES + "_total") or 0) >= 2
        result = job.finish()
        assert [entry["workers"] for entry in result["history"]][-2:] == [3, 2]
        assert_like_one_process(job, result)


def test_a_worker_killed_in_mid_step_loses_no_sample(tmp_path: Path) -> None:
    victims = tmp_path / "victims"
    victims.mkdir()
    with Job(tmp_path, task="SelfKilling", min_workers=3, args={"victims": str(victims)}) as job:
        job.start("a", "b", "c")
        job.wait_for_active(3)
        killed = job.members.pop("b")
        (victims / str(killed.pid)).touch()
        killed.join(30)
        assert killed.exitcode == -signal.SIGKILL
        job.wait_for_active(2)
        assert_like_one_process(job, job.finish())


def test_training_continues_while_the_coordinator_is_down(tmp_path: Path) -> None:
    with Job(tmp_path, min_workers=2) as job:
        job.start("a", "b")
        job.wait_for_active(2)
        job.kill_coordinator()
        wait_for_evaluation(job)  # This evaluation may have begun before.
        wait_for_evaluation(job)
        job.start_coordinator()
        job.wait_for_active(2)
        assert job.metric(Metric.VIEW) == 1
        assert job.metric(Metric.RESCALES + "_total") == 0
        job.start_worker("c")
        job.plan(3, generation=2)
        job.wait_for_active(3)
        assert_like_one_process(job, job.finish())


def test_an_unresponsive_worker_is_fenced_and_rejoins_as_a_new_member(tmp_path: Path) -> None:
    with Job(tmp_path, min_workers=3) as job:
        job.start("a", "b", "c")
        job.wait_for_active(3)
        job.signal("c", signal.SIGSTOP)
        job.wait_for_active(2)
        job.signal("c", signal.SIGCONT)
        job.wait_for_active(3)
        assert_like_one_process(job, job.finish())


def test_a_worker_whose_training_thread_hangs_does_not_hold_up_the_others(tmp_path: Path) -> None:
    victims = tmp_path / "victims"
    victims.mkdir()
    args = {"victims": str(victims)}
    with Job(tmp_path, task="Stuck", min_workers=3, stuck_seconds=2.0, args=args) as job:
        job.start("a", "b", "c")
        job.wait_for_active(3)
        pids = {name: job.members[name].pid for name in "ac"}
        (victims / "b").touch()
        code, message = job.wait_for_exit("b")
        assert code == Exit.MEMBER_UNFIT
        assert "b has stood still for" in message.error
        assert "threading.Event().wait()" in message.traceback
        assert "in __getitem__" in (tmp_path / "b.log").read_text()
        job.wait_for_active(2)
        assert pids == {name: worker.pid for name, worker in job.members.items()}
        assert_like_one_process(job, job.finish())


def test_a_sample_that_raises_on_two_workers_fails_the_job_and_keeps_the_state(
    tmp_path: Path,
) -> None:
    victims = tmp_path / "victims"
    victims.mkdir()
    args = {"victims": str(victims)}
    with Job(tmp_path, task="Spoiled", min_workers=3, durable=True, args=args) as job:
        job.start("a", "b", "c")
        job.wait_for_active(3)
        (victims / "spoiled").touch()
        exits = [job.wait_for_exit(name) for name in "abc"]
        assert sorted(code for code, _ in exits) == [
            Exit.TASK_FAILED,
            Exit.TASK_INVALID,
            Exit.TASK_INVALID,
        ]
        for code, message in exits:
            assert f"sample {SPOILED} cannot be decoded" in message.error
            assert ("on the same samples of train_data" in message.error) == (code != 1)
        assert job.coordinator is not None
        assert job.coordinator.wait(30) == Exit.TASK_INVALID
        ended = TerminationMessage.decode((tmp_path / "coordinator.termination").read_text())
        assert ended is not None
        assert re.search(rf"in iteration \d+: .*\b{SPOILED}\b", ended.error)
        (victims / "spoiled").unlink()
        job.start("d", workers=1)
        stored = job.metric(Metric.CHECKPOINT_STEP)
        assert stored is not None
        assert stored > 0
        until(lambda: (job.metric(Metric.STEP) or 0) > stored, "more steps")
        assert_like_one_process(job, job.finish())


def test_a_replacement_receives_its_state_from_the_only_worker(tmp_path: Path) -> None:
    with Job(tmp_path) as job:
        job.start("a", workers=2)
        job.wait_for_active(1)
        job.start_worker("b")
        job.wait_for_active(2)
        job.signal("a")
        assert job.wait_for_exit("a")[1].result is Result.LEFT
        job.wait_for_active(1)
        assert_like_one_process(job, job.finish())
