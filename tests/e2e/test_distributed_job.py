"""A DistributedJob from apply to its stored model, and its growth, on real pods."""

from __future__ import annotations

import json
from pathlib import Path

from tests.e2e.conftest import claim, digits
from tests.e2e.yard import Yard, condition, phase, scaling, training, trains_on
from trainyard.cli.fetch import fetch, parse_target


async def test_a_job_trains_to_its_end_and_its_model_is_fetched(yard: Yard, tmp_path: Path) -> None:
    await yard.create("persistentvolumeclaims", claim("kept"))
    epochs = {"epochs": 20}
    await yard.submit(
        digits("whole", workers={"replicas": 2}, training=epochs, state={"claimName": "kept"})
    )
    job = await yard.complete("whole")
    assert job["status"]["training"]["evaluation"]["eval/accuracy"] > 0.9
    assert condition(job, "StateDurable")["status"] == "True"
    assert "failures" not in job["status"]
    await fetch(yard.client, parse_target("dj/whole", yard.namespace), tmp_path)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["samples_wrong"] == 0
    assert result["epochs_audited"] == 20
    assert (tmp_path / "model.safetensors").stat().st_size > 10_000


async def test_without_a_claim_the_coordinator_keeps_the_model(yard: Yard, tmp_path: Path) -> None:
    await yard.submit(digits("loose", training={"epochs": 10}))
    await yard.complete("loose")
    await fetch(yard.client, parse_target("dj/loose", yard.namespace), tmp_path)
    assert (tmp_path / "model.safetensors").exists()


async def test_manual_scaling_keeps_processes_and_samples(yard: Yard, tmp_path: Path) -> None:
    epochs = {"epochs": 100_000}
    await yard.submit(digits("manual", training=epochs))
    await yard.wait("manual", "one worker trains", trains_on(1))
    first = (await yard.pods("manual"))[0]
    before = await yard.process(first)

    await yard.scale("manual", 3)
    await yard.wait("manual", "three workers train", trains_on(3))
    second = await yard.process((await yard.pods("manual"))[1])

    await yard.scale("manual", 2)
    job = await yard.wait("manual", "two workers train", trains_on(2))
    survivors = [p for p in await yard.pods("manual") if p.is_live]
    assert [await yard.process(p) for p in survivors] == [before, second]
    assert before[0] == second[0] == 0, "no container restarted"
    history = [(c["from"], c["to"]) for c in scaling(job)["history"]]
    assert history == [(0, 1), (1, 3), (3, 2)]
    assert scaling(job)["stallSeconds"] >= 0

    step = training(job)["step"]
    job = await yard.wait("manual", "training goes on", lambda j: training(j)["step"] > step)
    metrics = await yard.metrics("manual")
    assert metrics["trainyard_training_samples_wrong"] == 0
    assert metrics["trainyard_training_epochs_audited_total"] > 0


async def test_a_job_grows_because_its_metrics_say_that_it_pays(yard: Yard) -> None:
    share = {"requests": {"cpu": "50m"}, "limits": {"cpu": "300m", "memory": "2Gi"}}
    await yard.submit(
        digits(
            "grows",
            task={"entrypoint": "trainyard_trainer.tasks.mnist:Mnist", "args": {"hidden": 512}},
            workers={"max": 2, "resources": share},
            training={"batchSize": 2048, "epochs": 100_000},
            scaling={"policy": "Throughput", "cooldown": "5s"},
        )
    )
    job = await yard.wait(
        "grows",
        "grown to two with the speed-up measured",
        lambda j: any(c.get("measuredSpeedup") for c in scaling(j).get("history", [])),
        240,
    )
    grown = next(c for c in scaling(job)["history"] if c.get("measuredSpeedup"))
    assert (grown["from"], grown["to"]) == (1, 2)
    assert grown["expectedSpeedup"] > 1
    await yard.until_event("grows", grown["reason"])
    assert grown["measuredSpeedup"] > 1.05
    assert "1 → 2 workers" in await yard.until_event("grows", "SpeedupMeasured")


async def test_suspend_frees_the_workers_and_resume_goes_on_from_there(yard: Yard) -> None:
    await yard.create("persistentvolumeclaims", claim("pause"))
    await yard.submit(digits("pauses", training={"epochs": 100_000}, state={"claimName": "pause"}))
    job = await yard.wait(
        "pauses", "some steps done", lambda j: trains_on(1)(j) and training(j)["step"] > 20
    )
    step = training(job)["step"]
    await yard.patch("pauses", {"spec": {"suspend": True}})
    await yard.wait("pauses", "suspended", lambda j: phase(j) == "Suspended")
    assert [p for p in await yard.pods("pauses") if p.is_live] == []
    assert [p for p in await yard.pods("pauses", "coordinator") if p.is_live] == []

    await yard.patch("pauses", {"spec": {"suspend": False}})
    job = await yard.wait(
        "pauses", "training again", lambda j: trains_on(1)(j) and training(j)["term"] == 2
    )
    assert training(job)["step"] >= step
