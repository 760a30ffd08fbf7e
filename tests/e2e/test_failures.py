"""Whatever is killed, the job goes on; whatever is wrong, the job says so."""

from __future__ import annotations

from tests.e2e.conftest import digits
from tests.e2e.yard import Yard, condition, phase, training, trains_on
from trainyard.cluster.client import collection

ENDLESS = {"epochs": 100_000}
SYSTEM = "trainyard-system"


async def test_a_killed_worker_is_replaced_and_the_survivor_never_restarts(yard: Yard) -> None:
    await yard.submit(digits("bereft", workers={"replicas": 2}, training=ENDLESS))
    job = await yard.wait("bereft", "two workers train", trains_on(2))
    survivor, victim = await yard.pods("bereft")
    before, view = await yard.process(survivor), training(job)["view"]
    await yard.kill(victim)
    job = await yard.wait(
        "bereft", "two train in a later view", lambda j: trains_on(2)(j) and _view(j) > view
    )
    assert await yard.process(survivor) == before
    metrics = await yard.metrics("bereft")
    assert metrics["trainyard_training_samples_wrong"] == 0


async def test_training_outlives_its_coordinator(yard: Yard) -> None:
    await yard.submit(digits("orphan", workers={"replicas": 2}, training=ENDLESS))
    job = await yard.wait("orphan", "two workers train", trains_on(2))
    step = training(job)["step"]
    workers = await yard.pods("orphan")
    before = [await yard.process(p) for p in workers]
    await yard.kill((await yard.pods("orphan", "coordinator"))[0])
    job = await yard.wait(
        "orphan",
        "the second term's coordinator reports further steps",
        lambda j: training(j)["term"] == 2 and trains_on(2)(j) and training(j)["step"] > step,
    )
    assert [await yard.process(p) for p in workers] == before


async def test_training_outlives_the_operator(yard: Yard) -> None:
    await yard.submit(digits("alone", workers={"replicas": 1}, training=ENDLESS))
    await yard.wait("alone", "one worker trains", trains_on(1))
    before = {p.uid for p in await yard.pods("alone")}
    pods = collection("v1", "pods", SYSTEM)
    selector = "app.kubernetes.io/name=trainyard"
    operators = [o["metadata"] async for o in yard.client.list_all(pods, label_selector=selector)]
    for meta in operators:
        await yard.client.delete(f"{pods}/{meta['name']}", uid=meta["uid"], grace_seconds=0)
    await yard.scale("alone", 2)
    await yard.wait("alone", "the next operator scales it", trains_on(2))
    assert before < {p.uid for p in await yard.pods("alone")}, "the first worker is the same pod"


async def test_a_wrong_task_fails_the_job_with_a_sentence(yard: Yard) -> None:
    await yard.submit(digits("typo", task={"entrypoint": "trainyard_trainer.tasks.digits:Digitz"}))
    job = await yard.wait("typo", "failed", lambda j: phase(j) == "Failed")
    failed = condition(job, "Failed")
    assert failed["reason"] == "TaskInvalid"
    assert "Digitz" in failed["message"]
    assert "task.entrypoint" in failed["message"]


async def test_a_wrong_image_is_named_and_mended_by_nobody_else(yard: Yard) -> None:
    await yard.submit(digits("blurred", image="trainyard-trainer:no-such-tag"))
    job = await yard.wait(
        "blurred",
        "trouble is told",
        lambda j: "no-such-tag" in condition(j, "Degraded").get("message", ""),
    )
    assert condition(job, "Degraded")["reason"] == "PodTrouble"


async def test_a_crash_in_user_code_is_retried_then_told(yard: Yard) -> None:
    template = await yard.provide_code("crashing.py")
    await yard.submit(
        digits(
            "crash",
            task={"entrypoint": "crashing:Crashing"},
            workers={"template": template},
            failure={"maxRestarts": 1},
        )
    )
    job = await yard.wait("crash", "failed", lambda j: phase(j) == "Failed")
    failed = condition(job, "Failed")
    assert failed["reason"] == "TooManyRestarts"
    assert "ZeroDivisionError: the user's own mistake" in failed["message"]
    assert len(job["status"]["failures"]) == 2


def _view(job: dict[str, object]) -> int:
    return int(training(job)["view"])
