"""A FederatedJob from its creation to its stored model, with killed pods and invalid updates."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch

from tests.e2e.conftest import HOSPITALS, claim, hospitals
from tests.e2e.testbed import Testbed, party, training
from tests.support.testbed import condition, phase
from trainyard.cli.fetch import fetch, parse_target
from trainyard_trainer.contract.env import MODEL_FILE, RESULT_FILE

ENDLESS = {"max": 100_000, "minParties": 2, "deadline": "20s"}


async def test_hospitals_train_to_the_end_and_their_model_is_fetched(
    testbed: Testbed, tmp_path: Path
) -> None:
    await testbed.create("persistentvolumeclaims", claim("state"))
    rounds = {"minParties": len(HOSPITALS)}
    await testbed.create_job(hospitals("complete", rounds=rounds, state={"claimName": "state"}))
    job = await testbed.wait_for_completion("complete")
    assert training(job)["round"] == 4
    assert training(job)["evaluation"]["eval/accuracy"] > 0.65
    assert condition(job, "StateDurable")["status"] == "True"
    assert "failures" not in job["status"]
    assert sum(party(job, name)["rounds"] for name in HOSPITALS) == 4 * len(HOSPITALS)

    await fetch(testbed.client, parse_target("fj/complete", testbed.namespace), tmp_path)
    result = json.loads((tmp_path / RESULT_FILE).read_text())
    assert [entry["round"] for entry in result["history"]] == [0, 1, 2, 3, 4]
    model = safetensors.torch.load_file(tmp_path / MODEL_FILE)
    assert {name: tuple(tensor.shape) for name, tensor in model.items()} == {
        "weight": (1, 13),
        "bias": (1,),
    }


async def test_rounds_continue_after_the_aggregator_or_a_party_is_killed(
    testbed: Testbed,
) -> None:
    await testbed.create("persistentvolumeclaims", claim("state"))
    await testbed.create_job(hospitals("robust", rounds=ENDLESS, state={"claimName": "state"}))
    job = await testbed.wait_for("robust", _has_rounds_of_all, "rounds with all parties")
    processes = [await testbed.process(pod) for pod in await testbed.job_pods("robust", "party")]

    before = _round(job)
    await testbed.kill((await testbed.job_pods("robust", "coordinator"))[0])
    job = await testbed.wait_for(
        "robust",
        lambda j: training(j)["term"] == 2 and _round(j) > before + 1,
        "the second term's aggregator continues from the stored round",
    )
    assert training(job).get("roundsLost", 0) <= 1
    parties = await testbed.job_pods("robust", "party")
    assert [await testbed.process(pod) for pod in parties] == processes, "no party restarted"

    killed, before = parties[0], _round(job)
    contributed = party(job, killed.party)["rounds"]
    await testbed.kill(killed)
    await testbed.wait_for(
        "robust", lambda j: _round(j) > before + 2, "rounds without the killed party"
    )
    job = await testbed.wait_for(
        "robust", _contributes(killed.party, contributed + 2), "its replacement contributes"
    )
    live = [pod for pod in await testbed.job_pods("robust", "party") if pod.is_live]
    assert [pod.party for pod in live] == list(HOSPITALS)
    assert killed.uid not in {pod.uid for pod in live}

    await testbed.update_spec("robust", rounds={"max": _round(job) + 1})
    await testbed.wait_for_completion("robust")


async def test_a_party_that_sends_nan_is_reported_and_the_others_continue(testbed: Testbed) -> None:
    template = await testbed.provide_code("poisoned.py")
    manifest = hospitals(
        "poisoned",
        task={"entrypoint": "poisoned:Poisoned"},
        template=template,
        rounds=ENDLESS,
    )
    manifest["spec"]["parties"][2]["args"] = {"poison": True}
    await testbed.create_job(manifest)
    job = await testbed.wait_for(
        "poisoned", lambda j: _refused(j, HOSPITALS[2]) > 3, "several refused updates"
    )
    await testbed.update_spec("poisoned", rounds={"max": _round(job) + 1})
    job = await testbed.wait_for_completion("poisoned")
    poisoned = party(job, HOSPITALS[2])
    assert poisoned.get("rounds", 0) == 0
    assert "NotFinite" in poisoned["lastRefusal"]
    rounds = training(job)["round"]
    assert 4 <= poisoned["refused"] <= rounds + training(job).get("roundsLost", 0)
    assert [party(job, name)["rounds"] for name in HOSPITALS[:2]] == [rounds, rounds]
    message = await testbed.wait_for_event("poisoned", "UpdateRefused")
    assert HOSPITALS[2] in message
    assert "NotFinite" in message
    assert training(job)["evaluation"]["eval/accuracy"] > 0.5
    assert phase(job) == "Complete"


def _has_rounds_of_all(job: dict[str, Any]) -> bool:
    return _round(job) > 3 and all(party(job, name).get("rounds") for name in HOSPITALS)


def _refused(job: dict[str, Any], name: str) -> int:
    return int(party(job, name).get("refused", 0))


def _round(job: dict[str, Any]) -> int:
    return int(training(job).get("round", 0))


def _contributes(name: str, rounds: int) -> Callable[[dict[str, Any]], bool]:
    return lambda job: int(party(job, name).get("rounds", 0)) >= rounds
