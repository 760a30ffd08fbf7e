"""A DistributedJob from apply to its stored model, and its growth, on real pods."""

from __future__ import annotations

import json
from pathlib import Path

from tests.e2e.conftest import claim, digits
from tests.e2e.testbed import Testbed, training, trains_on
from tests.support.testbed import condition, scaling
from trainyard.cli.fetch import fetch, parse_target


async def test_a_job_trains_to_its_end_and_its_model_is_fetched(
    testbed: Testbed, tmp_path: Path
) -> None:
    await testbed.create("persistentvolumeclaims", claim("kept"))
    epochs = {"epochs": 20}
    await testbed.create_job(
        digits("whole", workers={"replicas": 2}, training=epochs, state={"claimName": "kept"})
    )
    job = await testbed.wait_for_completion("whole")
    assert job["status"]["training"]["evaluation"]["eval/accuracy"] > 0.9
    assert condition(job, "StateDurable")["status"] == "True"
    assert "failures" not in job["status"]
    await fetch(testbed.client, parse_target("dj/whole", testbed.namespace), tmp_path)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["samples_wrong"] == 0
    assert result["epochs_audited"] == 20
    assert (tmp_path / "model.safetensors").stat().st_size > 10_000


async def test_without_a_claim_the_coordinator_keeps_the_model(
    testbed: Testbed, tmp_path: Path
) -> None:
    await testbed.create_job(digits("loose", training={"epochs": 10}))
    await testbed.wait_for_completion("loose")
    await fetch(testbed.client, parse_target("dj/loose", testbed.namespace), tmp_path)
    assert (tmp_path / "model.safetensors").exists()


async def test_manual_scaling_keeps_processes_and_samples(testbed: Testbed, tmp_path: Path) -> None:
    epochs = {"epochs": 100_000}
    await testbed.create_job(digits("manual", training=epochs))
    await testbed.wait_for("manual", trains_on(1), "one worker trains")
    first = (await testbed.job_pods("manual"))[0]
    before = await testbed.process(first)

    await testbed.scale("manual", 3)
    await testbed.wait_for("manual", trains_on(3), "three workers train")
    second = await testbed.process((await testbed.job_pods("manual"))[1])

    await testbed.scale("manual", 2)
    job = await testbed.wait_for("manual", trains_on(2), "two workers train")
    survivors = [p for p in await testbed.job_pods("manual") if p.is_live]
    assert [await testbed.process(p) for p in survivors] == [before, second]
    assert before[0] == second[0] == 0, "no container restarted"
    history = [(c["from"], c["to"]) for c in scaling(job)["history"]]
    assert history == [(0, 1), (1, 3), (3, 2)]
    assert scaling(job)["stallSeconds"] >= 0

    step = training(job)["step"]
    job = await testbed.wait_for("manual", lambda j: training(j)["step"] > step, "training goes on")
    metrics = await testbed.metrics("manual")
    assert metrics["trainyard_training_samples_wrong"] == 0
    assert metrics["trainyard_training_epochs_audited_total"] > 0


async def test_a_job_scales_up_when_its_metrics_predict_a_speedup(testbed: Testbed) -> None:
    share = {"requests": {"cpu": "50m"}, "limits": {"cpu": "300m", "memory": "2Gi"}}
    await testbed.create_job(
        digits(
            "grows",
            task={"entrypoint": "trainyard_trainer.tasks.mnist:Mnist", "args": {"hidden": 512}},
            workers={"max": 2, "resources": share},
            training={"batchSize": 2048, "epochs": 100_000},
            scaling={"policy": "Throughput", "cooldown": "5s"},
        )
    )
    job = await testbed.wait_for(
        "grows",
        lambda j: any(c.get("measuredSpeedup") for c in scaling(j).get("history", [])),
        "grown to two with the speed-up measured",
        240,
    )
    grown = next(c for c in scaling(job)["history"] if c.get("measuredSpeedup"))
    assert (grown["from"], grown["to"]) == (1, 2)
    assert grown["expectedSpeedup"] > 1
    await testbed.wait_for_event("grows", grown["reason"])
    assert grown["measuredSpeedup"] > 1.05
    assert "1 → 2 workers" in await testbed.wait_for_event("grows", "SpeedupMeasured")


async def test_suspending_frees_the_workers_and_resuming_continues_the_training(
    testbed: Testbed,
) -> None:
    await testbed.create("persistentvolumeclaims", claim("pause"))
    await testbed.create_job(
        digits("pauses", training={"epochs": 100_000}, state={"claimName": "pause"})
    )
    job = await testbed.wait_for(
        "pauses", lambda j: trains_on(1)(j) and training(j)["step"] > 20, "some steps done"
    )
    step = training(job)["step"]
    await testbed.update_spec("pauses", suspend=True)
    await testbed.wait_for_phase("pauses", "Suspended")
    assert [p for p in await testbed.job_pods("pauses") if p.is_live] == []
    assert [p for p in await testbed.job_pods("pauses", "coordinator") if p.is_live] == []

    await testbed.update_spec("pauses", suspend=False)
    job = await testbed.wait_for(
        "pauses", lambda j: trains_on(1)(j) and training(j)["term"] == 2, "training again"
    )
    assert training(job)["step"] >= step
