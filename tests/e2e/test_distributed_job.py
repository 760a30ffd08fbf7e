"""A DistributedJob from its creation to its stored model, and its scaling, on real pods."""

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
    await testbed.create("persistentvolumeclaims", claim("state"))
    epochs = {"epochs": 20}
    await testbed.create_job(
        digits("complete", workers={"replicas": 2}, training=epochs, state={"claimName": "state"})
    )
    job = await testbed.wait_for_completion("complete")
    assert job["status"]["training"]["evaluation"]["eval/accuracy"] > 0.9
    assert condition(job, "StateDurable")["status"] == "True"
    assert "failures" not in job["status"]
    await fetch(testbed.client, parse_target("dj/complete", testbed.namespace), tmp_path)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["samples_wrong"] == 0
    assert result["epochs_audited"] == 20
    assert (tmp_path / "model.safetensors").stat().st_size > 10_000


async def test_without_a_claim_the_coordinator_keeps_the_model(
    testbed: Testbed, tmp_path: Path
) -> None:
    await testbed.create_job(digits("no-claim", training={"epochs": 10}))
    await testbed.wait_for_completion("no-claim")
    await fetch(testbed.client, parse_target("dj/no-claim", testbed.namespace), tmp_path)
    assert (tmp_path / "model.safetensors").exists()


async def test_manual_scaling_keeps_processes_and_samples(testbed: Testbed, tmp_path: Path) -> None:
    epochs = {"epochs": 100_000}
    await testbed.create_job(digits("manual", training=epochs))
    await testbed.wait_for("manual", trains_on(1), "one worker trains")
    first_pod = (await testbed.job_pods("manual"))[0]
    first = await testbed.process(first_pod)

    await testbed.scale("manual", 3)
    await testbed.wait_for("manual", trains_on(3), "three workers train")
    second = await testbed.process((await testbed.job_pods("manual"))[1])

    await testbed.scale("manual", 2)
    job = await testbed.wait_for("manual", trains_on(2), "two workers train")
    survivors = [p for p in await testbed.job_pods("manual") if p.is_live]
    assert [await testbed.process(p) for p in survivors] == [first, second]
    assert first[0] == second[0] == 0, "no container restarted"
    history = [(c["from"], c["to"]) for c in scaling(job)["history"]]
    assert history == [(0, 1), (1, 3), (3, 2)]
    assert scaling(job)["stallSeconds"] >= 0

    step = training(job)["step"]
    job = await testbed.wait_for(
        "manual", lambda j: training(j)["step"] > step, "training continues"
    )
    metrics = await testbed.metrics("manual")
    assert metrics["trainyard_training_samples_wrong"] == 0
    assert metrics["trainyard_training_epochs_audited_total"] > 0


async def test_a_job_scales_up_when_its_metrics_predict_a_speedup(testbed: Testbed) -> None:
    resources = {"requests": {"cpu": "50m"}, "limits": {"cpu": "300m", "memory": "2Gi"}}
    await testbed.create_job(
        digits(
            "scales-up",
            task={"entrypoint": "trainyard_trainer.tasks.mnist:Mnist", "args": {"hidden": 512}},
            workers={"max": 2, "resources": resources},
            training={"batchSize": 2048, "epochs": 100_000},
            scaling={"policy": "Throughput", "cooldown": "5s"},
        )
    )
    job = await testbed.wait_for(
        "scales-up",
        lambda j: any(c.get("measuredSpeedup") for c in scaling(j).get("history", [])),
        "scaled up to two with a measured speed-up",
        240,
    )
    change = next(c for c in scaling(job)["history"] if c.get("measuredSpeedup"))
    assert (change["from"], change["to"]) == (1, 2)
    assert change["expectedSpeedup"] > 1
    await testbed.wait_for_event("scales-up", change["reason"])
    assert change["measuredSpeedup"] > 1.05
    assert "1 → 2 workers" in await testbed.wait_for_event("scales-up", "SpeedupMeasured")


async def test_suspending_frees_the_workers_and_resuming_continues_the_training(
    testbed: Testbed,
) -> None:
    await testbed.create("persistentvolumeclaims", claim("state"))
    await testbed.create_job(
        digits("suspends", training={"epochs": 100_000}, state={"claimName": "state"})
    )
    job = await testbed.wait_for(
        "suspends", lambda j: trains_on(1)(j) and training(j)["step"] > 20, "some steps done"
    )
    step = training(job)["step"]
    await testbed.update_spec("suspends", suspend=True)
    await testbed.wait_for_phase("suspends", "Suspended")
    assert [p for p in await testbed.job_pods("suspends") if p.is_live] == []
    assert [p for p in await testbed.job_pods("suspends", "coordinator") if p.is_live] == []

    await testbed.update_spec("suspends", suspend=False)
    job = await testbed.wait_for(
        "suspends", lambda j: trains_on(1)(j) and training(j)["term"] == 2, "training again"
    )
    assert training(job)["step"] >= step
