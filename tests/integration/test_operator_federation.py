"""FederatedJobs on a real API server: pods, certificates, failures, and the queue."""

from __future__ import annotations

import base64
import uuid
from collections.abc import AsyncIterator

import pytest
from cryptography import x509

from tests.support.kubelet import Kubelet
from tests.support.manifests import Object
from tests.support.waiting import eventually
from tests.support.yard import Yard, condition, phase
from trainyard.cluster.client import KubeClient
from trainyard_trainer.contract.exits import Exit, Result, TerminationMessage

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("operator")]

PARTIES: list[Object] = [{"name": "ann"}, {"name": "bob"}, {"name": "cid"}]
ALL = ("coordinator-1", "party-ann-1", "party-bob-1", "party-cid-1")


@pytest.fixture
async def yard(kube: KubeClient) -> AsyncIterator[Yard]:
    made = Yard(kube, f"yard-{uuid.uuid4().hex[:8]}", "FederatedJob")
    await made.open()
    yield made
    await made.close()


def party(job: Object, name: str) -> Object:
    found: Object = next(p for p in job["status"]["parties"] if p["name"] == name)
    return found


def sites(*names: str) -> list[Object]:
    """Parties of a GPU each, on nodes of their own site."""
    return [{"name": name, "gpus": 1, "nodeSelector": {"site": name}} for name in names]


async def start(yard: Yard, **wishes: object) -> list[Object]:
    """A job called `heart` whose parties all run; they."""
    await yard.add_nodes(0, is_attended=False)
    await yard.federate("heart", PARTIES, rounds={"minParties": 2}, **wishes)
    await yard.until_pods("heart", *ALL)
    await yard.until("heart", _is_whole)
    return await yard.pods("heart", "party")


def _is_whole(job: Object) -> bool:
    told = [condition(job, type_)["status"] for type_ in ("Running", "Degraded")]
    return told == ["True", "False"]


async def test_a_federation_gets_an_aggregator_and_a_pod_for_each_party(
    yard: Yard, kubelet: Kubelet
) -> None:
    await start(yard)
    job = await yard.get("heart")
    assert condition(job, "Running")["reason"] == "PartiesRunning"
    assert job["status"]["admission"]["parties"] == ["ann", "bob", "cid"]
    assert {p["name"]: p["podName"] for p in job["status"]["parties"]} == {
        name: f"heart-party-{name}-1" for name in ("ann", "bob", "cid")
    }
    assert not condition(job, "Rescaling")["status"]
    [aggregator] = await yard.pods("heart", "coordinator")
    assert aggregator["spec"]["containers"][0]["command"] == ["trainyard-trainer", "aggregator"]


async def test_each_party_has_a_certificate_of_its_own(yard: Yard, kubelet: Kubelet) -> None:
    await start(yard)
    assert await identities(yard) == {
        "coordinator": f"trainyard://{yard.name}/heart/coordinator",
        **{f"party-{n}": f"trainyard://{yard.name}/heart/party/{n}" for n in ("ann", "bob", "cid")},
    }


async def identities(yard: Yard) -> dict[str, str]:
    """The URI names of the leaves, by their owner."""
    secret = await yard.kube.get(f"{yard.path('secrets')}/heart-trainyard-tls")
    found = {}
    for name, data in secret["data"].items():
        owner, _, suffix = name.rpartition(".")
        if suffix == "crt" and owner != "ca":
            leaf = x509.load_pem_x509_certificate(base64.b64decode(data))
            alternatives = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
            [uri] = alternatives.value.get_values_for_type(x509.UniformResourceIdentifier)
            found[owner] = uri
    return found


async def test_a_party_that_joins_gets_a_certificate_and_a_pod(
    yard: Yard, kubelet: Kubelet
) -> None:
    await start(yard)
    await yard.change("heart", parties=[*PARTIES, {"name": "dan"}])
    await yard.until_pods("heart", *ALL, "party-dan-1")
    assert (await identities(yard))["party-dan"].endswith("/party/dan")
    job = await yard.until("heart", lambda job: "dan" in job["status"]["admission"]["parties"])
    assert job["status"]["admission"]["reason"] in ("PartyAdded", "Steady")


async def test_a_party_that_fails_is_named_and_comes_back_while_the_others_go_on(
    yard: Yard, kubelet: Kubelet
) -> None:
    _, bob, _ = await start(yard)
    kubelet.starts = False
    await kubelet.fail(bob, "OSError: disk full")
    job = await yard.until(
        "heart", lambda job: condition(job, "Degraded")["reason"] == "PartiesMissing"
    )
    assert condition(job, "Degraded")["message"].startswith("1 party is missing: bob;")
    assert "disk full" in condition(job, "Degraded")["message"]
    assert condition(job, "Running")["status"] == "True"
    kubelet.starts = True
    job = await yard.until(
        "heart", lambda job: party(job, "bob").get("podName", "").endswith("bob-2")
    )
    assert job["status"]["restarts"] == 1
    [event] = await yard.until_events("heart", "PodFailed")
    assert event["message"].startswith("party bob (pod heart-party-bob-1) failed")


async def test_without_a_quorum_the_job_does_not_run(yard: Yard, kubelet: Kubelet) -> None:
    ann, bob, _ = await start(yard)
    kubelet.starts = False
    for pod in (ann, bob):
        await kubelet.disrupt(pod)
    job = await yard.until_phase("heart", "Starting")
    assert condition(job, "Running")["message"] == "1 of 3 parties run, 2 are needed."
    kubelet.starts = True


async def test_parties_start_together_or_wait_and_say_for_what(
    yard: Yard, kubelet: Kubelet
) -> None:
    await yard.add_nodes(1, is_attended=False, labels={"site": "ann"})
    await yard.federate("heart", sites("ann", "bob"))

    def waits_for_bob_alone(job: Object) -> bool:
        # The first sentence names ann too where the job was heard of before her node was.
        told = "party bob waits for 1 nvidia.com/gpu with selector" in admitted(job)
        return told and "party ann" not in admitted(job)

    job = await yard.until("heart", waits_for_bob_alone)
    assert phase(job) == "Waiting"
    assert condition(job, "Admitted")["reason"] == "NoSuchNodes"
    await yard.add_nodes(1, is_attended=False, labels={"site": "bob"})
    await yard.until_pods("heart", "coordinator-1", "party-ann-1", "party-bob-1")
    nodes = [p["spec"]["nodeName"] for p in await yard.pods("heart", "party")]
    assert nodes == [f"{yard.name}-0", f"{yard.name}-1"]


async def test_both_kinds_stand_in_one_queue(yard: Yard, kubelet: Kubelet) -> None:
    workers = Yard(yard.kube, yard.name)
    await yard.add_nodes(2, is_attended=False, labels={"site": "ann"})
    await workers.submit("digits", 2)
    await workers.until_phase("digits", "Running")
    await yard.federate("heart", sites("ann"))
    job = await yard.until_phase("heart", "Waiting")
    assert condition(job, "Admitted")["reason"] == "WaitingForGPUs"
    await workers.submit("later", 1)
    await workers.until_phase("later", "Waiting")
    await workers.delete("digits")
    await yard.until_phase("heart", "Running")
    await workers.until_phase("later", "Running")
    await workers.delete("later")


def admitted(job: Object) -> str:
    return str(condition(job, "Admitted")["message"])


async def test_the_aggregators_termination_message_completes_the_job(
    yard: Yard, kubelet: Kubelet
) -> None:
    await start(yard)
    [aggregator] = await yard.pods("heart", "coordinator")
    words = TerminationMessage(
        result=Result.COMPLETE, step=12, samples=3600, metrics={"eval/accuracy": 0.91}
    )
    await kubelet.end(aggregator, 0, message=words)
    job = await yard.until_phase("heart", "Complete")
    assert condition(job, "Complete")["message"] == "Training is complete: eval/accuracy 0.91."
    assert job["status"]["training"]["round"] == 12
    assert job["status"]["training"]["evaluation"] == {"eval/accuracy": 0.91}


async def test_a_suspended_federation_gives_its_pods_up_and_comes_back(
    yard: Yard, kubelet: Kubelet
) -> None:
    parties = await start(yard)
    await yard.change("heart", suspend=True)
    await yard.until_phase("heart", "Suspending")
    for pod in parties:
        await kubelet.end(pod, 0, message=TerminationMessage(result=Result.SUSPENDED))
    job = await yard.until_phase("heart", "Suspended")
    assert {p["state"] for p in job["status"]["parties"]} == {"Stopped"}

    async def only_the_aggregator() -> None:
        assert [p["metadata"]["name"] for p in await yard.pods("heart")] == ["heart-coordinator-1"]

    await eventually(only_the_aggregator)
    await yard.change("heart", suspend=False)
    await yard.until_phase("heart", "Running")


async def test_what_this_version_cannot_do_is_refused_with_a_sentence(yard: Yard) -> None:
    await yard.federate("heart", PARTIES, strategy={"name": "Krum"}, update={"maxNorm": 3})
    job = await yard.until_phase("heart", "Pending")
    message = condition(job, "Accepted")["message"]
    assert condition(job, "Accepted")["reason"] == "NotSupportedYet"
    assert "spec.strategy.name (use FedAvg, FedProx or FedAdam)" in message
    assert "spec.update.maxNorm (leave it out)" in message
    assert await yard.pods("heart") == []


async def test_external_parties_are_awaited_while_the_others_train(
    yard: Yard, kubelet: Kubelet
) -> None:
    await yard.add_nodes(0, is_attended=False)
    outside = [*PARTIES, {"name": "zoe", "external": True}]
    await yard.federate("heart", outside, rounds={"minParties": 3})
    await yard.until_pods("heart", *ALL)
    job = await yard.until_phase("heart", "Running")
    assert party(job, "zoe")["state"] == "AwaitsEnrolment"
    await yard.federate("alone", [{"name": "zoe", "external": True}])
    job = await yard.until_phase("alone", "Pending")
    assert "external parties cannot enroll yet" in condition(job, "Accepted")["message"]


async def test_an_image_of_another_release_is_told_and_does_not_fail_the_job(
    yard: Yard, kubelet: Kubelet
) -> None:
    await yard.add_nodes(0, is_attended=False)
    kubelet.starts = False
    await yard.federate("heart", PARTIES, failure={"maxRestarts": 0})

    async def created() -> list[Object]:
        pods = await yard.pods("heart")
        assert len(pods) == 4
        return pods

    for pod in await eventually(created):
        await kubelet.fail(
            pod, "the operator speaks wire version 1, this trainer 2", Exit.WIRE_MISMATCH
        )
    job = await yard.until(
        "heart", lambda job: condition(job, "Degraded")["reason"] == "WireMismatch"
    )
    assert "tried again every 5 min" in condition(job, "Degraded")["message"]
    job = await yard.until("heart", lambda job: len(job["status"]["failures"]) == 4)
    assert job["status"].get("restarts", 0) == 0
    assert job["status"]["phase"] == "Starting"
    assert condition(job, "Failed")["status"] == ""
