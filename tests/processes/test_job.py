"""Plans, suspension, completion and failure of a DistributedJob."""

from pathlib import Path

import pytest

from tests.processes.job import Job
from tests.processes.running import until
from tests.processes.test_elastic import assert_like_one_process
from trainyard_trainer.contract.exits import Exit, Result, TerminationMessage
from trainyard_trainer.contract.metrics import Metric
from trainyard_trainer.contract.plan import Plan


def test_a_stale_plan_is_refused(tmp_path: Path) -> None:
    with Job(tmp_path) as job:
        job.start_coordinator()
        assert job.put(Plan(generation=3, workers=2)) == (
            200,
            {"generation": 3, "effectiveStep": 0},
        )
        assert job.put(Plan(generation=2, workers=1)) == (409, {"generation": 3, "fencingToken": 0})
        assert job.put(Plan(generation=3, workers=2))[0] == 200
        assert job.put(Plan(generation=3, workers=5))[0] == 409
        status, body = job.request("/v1/plan", b'{"wire": 1, "generation": 4, "workers": 0}')
        assert status == 400
        assert b"plan.workers must be at least 1" in body
        assert job.metric(Metric.PLAN_GENERATION) == 3


def test_a_plan_changes_the_batch_at_the_step_it_announces(tmp_path: Path) -> None:
    with Job(tmp_path, min_workers=2) as job:
        job.start("a", "b")
        job.wait_for_active(2)
        response = job.plan(2, generation=2, batch_size=50)
        assert response["effectiveStep"] > 0
        job.wait_for_steps(5)
        assert job.metric(Metric.PLAN_EFFECTIVE_STEP) == response["effectiveStep"]
        until(
            lambda: job.metric(Metric.SAMPLES_PER_SECOND, workers="2", local_batch="25"),
            "throughput with the new batch",
        )
        assert job.finish()["samples_wrong"] == 0


def test_a_suspended_job_resumes_from_its_checkpoint(tmp_path: Path) -> None:
    with Job(tmp_path, min_workers=2, durable=True) as job:
        job.start("a", "b")
        job.wait_for_active(2)
        job.plan(2, generation=2, suspend=True)
        exits = [job.wait_for_exit(name) for name in ("a", "b")]
        assert {(code, message.result) for code, message in exits} == {(0, Result.SUSPENDED)}
        assert job.coordinator is not None
        assert job.coordinator.wait(30) == 0
        message = TerminationMessage.decode((tmp_path / "coordinator.termination").read_text())
        assert message is not None
        assert message.result is Result.SUSPENDED
        job.start("c", workers=2)
        assert job.metric(Metric.CHECKPOINT_STEP) == exits[0][1].step
        job.start_worker("d")
        until(lambda: (job.metric(Metric.STEP) or 0) > (exits[0][1].step or 0), "more steps")
        assert_like_one_process(job, job.finish())


def test_the_first_checkpoint_is_stored_at_once(tmp_path: Path) -> None:
    with Job(tmp_path, durable=True) as job:
        job.start("a")
        until(lambda: (job.metric(Metric.CHECKPOINT_STEP) or -1) > 0, "the first checkpoint", 30.0)
        assert job.config.checkpoint_seconds > 60.0
        assert_like_one_process(job, job.finish())


def test_a_coordinator_without_durable_state_stays_up_while_suspended_and_resumes(
    tmp_path: Path,
) -> None:
    with Job(tmp_path) as job:
        job.start("a")
        job.wait_for_active(1)
        job.plan(1, generation=2, suspend=True)
        assert job.wait_for_exit("a")[1].result is Result.SUSPENDED
        until(lambda: job.metric(Metric.OUTCOME, result="Suspended"), "the outcome")
        job.plan(1, generation=3)
        job.start_worker("b")
        job.wait_for_active(1)
        assert_like_one_process(job, job.finish())


def test_the_last_worker_to_leave_uploads_its_state_to_the_coordinator(tmp_path: Path) -> None:
    with Job(tmp_path) as job:
        job.start("a")
        job.wait_for_active(1)
        job.signal("a")
        code, message = job.wait_for_exit("a")
        assert (code, message.result) == (0, Result.LEFT)
        job.start_worker("b")
        job.wait_for_active(1)
        assert (job.metric(Metric.STEP) or 0) >= (message.step or 0)
        assert_like_one_process(job, job.finish())


@pytest.mark.parametrize(
    ("task", "args", "code", "error"),
    [
        ("nowhere:Task", {}, Exit.TASK_INVALID, "there is no module 'nowhere'"),
        (
            "tests.processes.tasks:Lime",
            {},
            Exit.TASK_INVALID,
            "it has Failing, FailingParty, Line, SelfKilling, Share",
        ),
        ("tests.processes.tasks:Line", {"pase": 1}, Exit.TASK_INVALID, "takes pace, gate, norm"),
        ("tests.processes.tasks:Failing", {}, Exit.TASK_FAILED, "the user's own mistake"),
    ],
)
def test_the_error_of_a_failing_task_is_in_the_termination_message(
    tmp_path: Path, task: str, args: dict[str, int], code: Exit, error: str
) -> None:
    with Job(tmp_path) as job:
        job.replace_config(task=task, args=args)
        job.start("a")
        exit_code, message = job.wait_for_exit("a")
        assert exit_code == code
        assert message.result is Result.FAILED
        assert error in message.error
        assert ("ZeroDivisionError" in message.traceback) == (code is Exit.TASK_FAILED)


def test_a_newer_worker_of_the_same_name_replaces_the_old(tmp_path: Path) -> None:
    with Job(tmp_path, silence_seconds=1.5) as job:
        job.start("a")
        job.wait_for_active(1)
        old = job.members["a"]
        job.start_worker("a")
        old.join(30)
        assert old.exitcode == Exit.FENCED
        job.wait_for_active(1)


def test_a_coordinator_of_a_lower_term_is_fenced(tmp_path: Path) -> None:
    with Job(tmp_path, min_workers=1) as job:
        job.term = 4
        job.start("a")
        job.wait_for_active(1)
        job.kill_coordinator()
        job.term = 2
        job.state_name = "elsewhere"
        job.start_coordinator(wait=False)
        assert job.coordinator is not None
        assert job.coordinator.wait(30) == Exit.FENCED
