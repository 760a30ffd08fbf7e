"""A FederatedJob from apply to its stored model; what is killed costs a round at most, and a party
that spoils its updates is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch

from tests.e2e.conftest import HOSPITALS, claim, hospitals
from tests.e2e.yard import Yard, condition, party, phase, training
from trainyard.cli.fetch import fetch, parse_target
from trainyard_trainer.contract.env import MODEL_FILE, RESULT_FILE

ENDLESS = {"max": 100_000, "minParties": 2, "deadline": "20s"}


async def test_hospitals_train_to_the_end_and_their_model_is_fetched(
    yard: Yard, tmp_path: Path
) -> None:
    await yard.create("persistentvolumeclaims", claim("kept"))
    together = {"minParties": len(HOSPITALS)}
    await yard.submit(hospitals("whole", rounds=together, state={"claimName": "kept"}))
    job = await yard.complete("whole")
    assert training(job)["round"] == 4
    assert training(job)["evaluation"]["eval/accuracy"] > 0.65
    assert condition(job, "StateDurable")["status"] == "True"
    assert "failures" not in job["status"]
    assert sum(party(job, name)["rounds"] for name in HOSPITALS) == 4 * len(HOSPITALS)

    await fetch(yard.client, parse_target("fj/whole", yard.namespace), tmp_path)
    result = json.loads((tmp_path / RESULT_FILE).read_text())
    assert [past["round"] for past in result["history"]] == [0, 1, 2, 3, 4]
    model = safetensors.torch.load_file(tmp_path / MODEL_FILE)
    assert {name: tuple(tensor.shape) for name, tensor in model.items()} == {
        "weight": (1, 13),
        "bias": (1,),
    }


async def test_rounds_go_on_without_an_aggregator_or_a_party_that_is_killed(yard: Yard) -> None:
    await yard.create("persistentvolumeclaims", claim("rounds"))
    await yard.submit(hospitals("robust", rounds=ENDLESS, state={"claimName": "rounds"}))
    job = await yard.wait("robust", "some rounds", _has_rounds_of_all)
    processes = [await yard.process(pod) for pod in await yard.pods("robust", "party")]

    before = _round(job)
    await yard.kill((await yard.pods("robust", "coordinator"))[0])
    job = await yard.wait(
        "robust",
        "the second term's aggregator goes on from the stored round",
        lambda j: training(j)["term"] == 2 and _round(j) > before + 1,
    )
    assert training(job).get("roundsLost", 0) <= 1
    parties = await yard.pods("robust", "party")
    assert [await yard.process(pod) for pod in parties] == processes, "no party restarted"

    victim, before = parties[0], _round(job)
    contributed = party(job, victim.party)["rounds"]
    await yard.kill(victim)
    await yard.wait("robust", "rounds without it", lambda j: _round(j) > before + 2)
    job = await yard.wait("robust", "it is back", _contributes(victim.party, contributed + 2))
    live = [pod for pod in await yard.pods("robust", "party") if pod.is_live]
    assert [pod.party for pod in live] == list(HOSPITALS)
    assert victim.uid not in {pod.uid for pod in live}

    await yard.patch("robust", {"spec": {"rounds": {"max": _round(job) + 1}}})
    await yard.complete("robust")


async def test_a_party_that_sends_nan_is_named_and_the_others_go_on(yard: Yard) -> None:
    template = await yard.provide_code("poisoned.py")
    manifest = hospitals(
        "poisoned",
        task={"entrypoint": "poisoned:Poisoned"},
        template=template,
        rounds=ENDLESS,
    )
    manifest["spec"]["parties"][2]["args"] = {"poison": True}
    await yard.submit(manifest)
    job = await yard.wait(
        "poisoned", "refused again and again", lambda j: _refused(j, HOSPITALS[2]) > 3
    )
    await yard.patch("poisoned", {"spec": {"rounds": {"max": _round(job) + 1}}})
    job = await yard.complete("poisoned")
    spoiler = party(job, HOSPITALS[2])
    assert spoiler.get("rounds", 0) == 0
    assert "NotFinite" in spoiler["lastRefusal"]
    rounds = training(job)["round"]
    assert 4 <= spoiler["refused"] <= rounds + training(job).get("roundsLost", 0)
    assert [party(job, name)["rounds"] for name in HOSPITALS[:2]] == [rounds, rounds]
    told = await yard.until_event("poisoned", "UpdateRefused")
    assert HOSPITALS[2] in told
    assert "NotFinite" in told
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
