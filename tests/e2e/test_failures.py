"""Jobs survive killed pods, and report invalid tasks, images and code."""

from __future__ import annotations

from tests.e2e.conftest import digits
from tests.e2e.testbed import Testbed, training, trains_on
from tests.support.testbed import condition
from trainyard.cluster.client import collection

ENDLESS = {"epochs": 100_000}
SYSTEM = "trainyard-system"


async def test_a_killed_worker_is_replaced_and_the_survivor_never_restarts(
    testbed: Testbed,
) -> None:
    await testbed.create_job(digits("worker-lost", workers={"replicas": 2}, training=ENDLESS))
    job = await testbed.wait_for("worker-lost", trains_on(2), "two workers train")
    survivor, killed = await testbed.job_pods("worker-lost")
    before, view = await testbed.process(survivor), training(job)["view"]
    await testbed.kill(killed)
    job = await testbed.wait_for(
        "worker-lost", lambda j: trains_on(2)(j) and _view(j) > view, "two train in a later view"
    )
    assert await testbed.process(survivor) == before
    metrics = await testbed.metrics("worker-lost")
    assert metrics["trainyard_training_samples_wrong"] == 0


async def test_training_continues_without_its_coordinator(testbed: Testbed) -> None:
    await testbed.create_job(digits("coordinator-lost", workers={"replicas": 2}, training=ENDLESS))
    job = await testbed.wait_for("coordinator-lost", trains_on(2), "two workers train")
    step = training(job)["step"]
    workers = await testbed.job_pods("coordinator-lost")
    before = [await testbed.process(p) for p in workers]
    await testbed.kill((await testbed.job_pods("coordinator-lost", "coordinator"))[0])
    job = await testbed.wait_for(
        "coordinator-lost",
        lambda j: training(j)["term"] == 2 and trains_on(2)(j) and training(j)["step"] > step,
        "the second term's coordinator reports further steps",
    )
    assert [await testbed.process(p) for p in workers] == before


async def test_training_continues_without_the_operator(testbed: Testbed) -> None:
    await testbed.create_job(digits("operator-lost", workers={"replicas": 1}, training=ENDLESS))
    await testbed.wait_for("operator-lost", trains_on(1), "one worker trains")
    before = {p.uid for p in await testbed.job_pods("operator-lost")}
    pods = collection("v1", "pods", SYSTEM)
    selector = "app.kubernetes.io/name=trainyard"
    operators = [
        o["metadata"] async for o in testbed.client.list_all(pods, label_selector=selector)
    ]
    for meta in operators:
        await testbed.client.delete(f"{pods}/{meta['name']}", uid=meta["uid"], grace_seconds=0)
    await testbed.scale("operator-lost", 2)
    await testbed.wait_for("operator-lost", trains_on(2), "the next operator scales it")
    assert before < {p.uid for p in await testbed.job_pods("operator-lost")}, (
        "the first worker is the same pod"
    )


async def test_an_invalid_task_fails_the_job_with_a_message(testbed: Testbed) -> None:
    await testbed.create_job(
        digits("invalid-task", task={"entrypoint": "trainyard_trainer.tasks.digits:Digitz"})
    )
    job = await testbed.wait_for_phase("invalid-task", "Failed")
    failed = condition(job, "Failed")
    assert failed["reason"] == "TaskInvalid"
    assert "Digitz" in failed["message"]
    assert "task.entrypoint" in failed["message"]


async def test_an_image_that_cannot_be_pulled_is_reported(testbed: Testbed) -> None:
    await testbed.create_job(digits("invalid-image", image="trainyard-trainer:no-such-tag"))
    job = await testbed.wait_for(
        "invalid-image",
        lambda j: "no-such-tag" in condition(j, "Degraded")["message"],
        "the image is reported",
    )
    assert condition(job, "Degraded")["reason"] == "PodTrouble"


async def test_a_crash_in_user_code_is_retried_then_reported(testbed: Testbed) -> None:
    await testbed.provide_code("crashing.py")
    await testbed.create_job(
        digits(
            "crashing",
            task={"entrypoint": "crashing:Crashing"},
            code={"configMap": "code"},
            failure={"maxRestarts": 1},
        )
    )
    job = await testbed.wait_for_phase("crashing", "Failed")
    failed = condition(job, "Failed")
    assert failed["reason"] == "TooManyRestarts"
    assert "ZeroDivisionError: the user's own mistake" in failed["message"]
    assert len(job["status"]["failures"]) == 2


def _view(job: dict[str, object]) -> int:
    return int(training(job)["view"])
