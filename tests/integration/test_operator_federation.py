"""FederatedJobs on a real API server: pods, certificates, failures and the queue."""

from __future__ import annotations

import base64

import pytest
from cryptography import x509

from tests.support.kubelet import Kubelet
from tests.support.manifests import Object
from tests.support.testbed import Testbed, condition, phase
from tests.support.waiting import eventually
from trainyard_trainer.contract.exits import Exit, Result, TerminationMessage

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("operator")]

PARTIES: list[Object] = [{"name": "ann"}, {"name": "bob"}, {"name": "cid"}]
ALL = ("coordinator-1", "party-ann-1", "party-bob-1", "party-cid-1")


def party(job: Object, name: str) -> Object:
    status: Object = next(p for p in job["status"]["parties"] if p["name"] == name)
    return status


def sites(*names: str) -> list[Object]:
    """Parties with one GPU each, on nodes of their own sites."""
    return [{"name": name, "gpus": 1, "nodeSelector": {"site": name}} for name in names]


async def start(testbed: Testbed, **options: object) -> list[Object]:
    """Submit a job `heart` and wait until its parties run; returns their pods."""
    await testbed.add_nodes(0, is_attended=False)
    await testbed.federate("heart", PARTIES, rounds={"minParties": 2}, **options)
    await testbed.wait_for_pods("heart", *ALL)
    await testbed.wait_for("heart", _is_healthy)
    return await testbed.pods("heart", "party")


def _is_healthy(job: Object) -> bool:
    statuses = [condition(job, type_)["status"] for type_ in ("Running", "Degraded")]
    return statuses == ["True", "False"]


async def test_a_federation_gets_an_aggregator_and_a_pod_for_each_party(
    testbed: Testbed, kubelet: Kubelet
) -> None:
    await start(testbed)
    job = await testbed.get("heart")
    assert condition(job, "Running")["reason"] == "PartiesRunning"
    assert job["status"]["admission"]["parties"] == ["ann", "bob", "cid"]
    assert {p["name"]: p["podName"] for p in job["status"]["parties"]} == {
        name: f"heart-party-{name}-1" for name in ("ann", "bob", "cid")
    }
    assert not condition(job, "Rescaling")["status"]
    [aggregator] = await testbed.pods("heart", "coordinator")
    assert aggregator["spec"]["containers"][0]["command"] == ["trainyard-trainer", "aggregator"]


async def test_each_party_has_a_certificate_of_its_own(testbed: Testbed, kubelet: Kubelet) -> None:
    await start(testbed)
    assert await identities(testbed) == {
        "coordinator": f"trainyard://{testbed.namespace}/heart/coordinator",
        **{
            f"party-{n}": f"trainyard://{testbed.namespace}/heart/party/{n}"
            for n in ("ann", "bob", "cid")
        },
    }


async def identities(testbed: Testbed) -> dict[str, str]:
    """The URI names of the certificates by their owners."""
    secret = await testbed.client.get(testbed.path("secrets", "heart-trainyard-tls"))
    uris = {}
    for name, data in secret["data"].items():
        owner, _, suffix = name.rpartition(".")
        if suffix == "crt" and owner != "ca":
            leaf = x509.load_pem_x509_certificate(base64.b64decode(data))
            alternatives = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
            [uri] = alternatives.value.get_values_for_type(x509.UniformResourceIdentifier)
            uris[owner] = uri
    return uris


async def test_a_party_that_joins_gets_a_certificate_and_a_pod(
    testbed: Testbed, kubelet: Kubelet
) -> None:
    await start(testbed)
    await testbed.update_spec("heart", parties=[*PARTIES, {"name": "dan"}])
    await testbed.wait_for_pods("heart", *ALL, "party-dan-1")
    assert (await identities(testbed))["party-dan"].endswith("/party/dan")
    job = await testbed.wait_for(
        "heart", lambda job: "dan" in job["status"]["admission"]["parties"]
    )
    assert job["status"]["admission"]["reason"] in ("PartyAdded", "Steady")


async def test_a_failed_party_is_named_and_replaced_while_the_others_train(
    testbed: Testbed, kubelet: Kubelet
) -> None:
    _, bob, _ = await start(testbed)
    kubelet.starts = False
    await kubelet.fail(bob, "OSError: disk full")
    job = await testbed.wait_for(
        "heart", lambda job: condition(job, "Degraded")["reason"] == "PartiesMissing"
    )
    assert condition(job, "Degraded")["message"].startswith("1 party is missing: bob;")
    assert "disk full" in condition(job, "Degraded")["message"]
    assert condition(job, "Running")["status"] == "True"
    kubelet.starts = True
    job = await testbed.wait_for(
        "heart", lambda job: party(job, "bob").get("podName", "").endswith("bob-2")
    )
    assert job["status"]["restarts"] == 1
    [event] = await testbed.wait_for_events("heart", "PodFailed")
    assert event["message"].startswith("party bob (pod heart-party-bob-1) failed")


@pytest.mark.parametrize(
    ("exit_code", "failures"),
    [
        pytest.param(Exit.TASK_INVALID, 1, id="invalid"),
        pytest.param(Exit.TASK_FAILED, 2, id="fails"),
    ],
)
async def test_rounds_go_on_without_a_party_that_is_broken_and_the_status_names_it(
    testbed: Testbed, kubelet: Kubelet, exit_code: int, failures: int
) -> None:
    started = await start(testbed, failure={"maxRestarts": 1})
    for attempt in range(1, failures + 1):
        bob = await _running_bob(testbed, attempt)
        await kubelet.fail(bob, "no column named age", exit_code)
    job = await testbed.wait_for("heart", lambda job: party(job, "bob")["state"] == "LeftOut")
    assert phase(job) == "Running"
    assert condition(job, "Failed")["status"] == ""
    message = condition(job, "Degraded")["message"]
    assert message.startswith("1 party is missing: bob; rounds continue with the others.")
    assert "no column named age" in message
    assert party(job, "bob")["failure"]["count"] == failures
    [event] = await testbed.wait_for_events("heart", "PartyLeftOut")
    assert event["message"].startswith("Party bob is left out and tried again at ")
    others = [pod["metadata"]["uid"] for pod in started if not _is_bob(pod, 1)]
    live = await testbed.pods("heart", "party")
    assert set(others) <= {pod["metadata"]["uid"] for pod in live}
    [aggregator] = await testbed.pods("heart", "coordinator")
    await kubelet.end(aggregator, 0, message=TerminationMessage(result=Result.COMPLETE, step=12))
    await testbed.wait_for_phase("heart", "Complete")


async def _running_bob(testbed: Testbed, attempt: int) -> Object:
    async def running() -> Object:
        bobs = [pod for pod in await testbed.pods("heart", "party") if _is_bob(pod, attempt)]
        assert [bob["status"]["phase"] for bob in bobs] == ["Running"]
        return bobs[0]

    return await eventually(running)


def _has_pod(job: Object, name: str, attempt: int) -> bool:
    return bool(party(job, name).get("podName", "") == f"heart-party-{name}-{attempt}")


def _is_bob(pod: Object, attempt: int) -> bool:
    return bool(pod["metadata"]["name"] == f"heart-party-bob-{attempt}")


async def test_one_partys_end_ends_nothing_but_its_pod(testbed: Testbed, kubelet: Kubelet) -> None:
    ann, bob, _ = await start(testbed)
    await kubelet.end(ann, 0, message=TerminationMessage(result=Result.COMPLETE, step=99))
    await kubelet.disrupt(bob)
    job = await testbed.wait_for("heart", lambda job: _has_pod(job, "bob", 2))
    assert phase(job) == "Running"
    assert condition(job, "Complete")["status"] == ""


async def test_without_a_quorum_the_job_does_not_run(testbed: Testbed, kubelet: Kubelet) -> None:
    ann, bob, _ = await start(testbed)
    kubelet.starts = False
    for pod in (ann, bob):
        await kubelet.disrupt(pod)
    job = await testbed.wait_for_phase("heart", "Starting")
    assert condition(job, "Running")["message"] == "1 of 3 parties run, 2 are needed."
    kubelet.starts = True


async def test_parties_start_together_or_wait_with_a_reason(
    testbed: Testbed, kubelet: Kubelet
) -> None:
    await testbed.add_nodes(1, is_attended=False, labels={"site": "ann"})
    await testbed.federate("heart", sites("ann", "bob"))

    def waits_for_bob_alone(job: Object) -> bool:
        # The first message names ann too if the job was observed before her node.
        waits_for_bob = "party bob waits for 1 nvidia.com/gpu with selector" in admitted(job)
        return waits_for_bob and "party ann" not in admitted(job)

    job = await testbed.wait_for("heart", waits_for_bob_alone)
    assert phase(job) == "Waiting"
    assert condition(job, "Admitted")["reason"] == "NoSuchNodes"
    await testbed.add_nodes(1, is_attended=False, labels={"site": "bob"})
    await testbed.wait_for_pods("heart", "coordinator-1", "party-ann-1", "party-bob-1")
    nodes = [p["spec"]["nodeName"] for p in await testbed.pods("heart", "party")]
    assert nodes == [f"{testbed.namespace}-0", f"{testbed.namespace}-1"]


async def test_both_kinds_wait_in_one_queue(testbed: Testbed, kubelet: Kubelet) -> None:
    await testbed.add_nodes(2, is_attended=False, labels={"site": "ann"})
    await testbed.submit("digits", 2)
    await testbed.wait_for_phase("digits", "Running")
    await testbed.federate("heart", sites("ann"))
    job = await testbed.wait_for_phase("heart", "Waiting")
    assert condition(job, "Admitted")["reason"] == "WaitingForGPUs"
    await testbed.submit("next", 1)
    await testbed.wait_for_phase("next", "Waiting")
    await testbed.delete("digits")
    await testbed.wait_for_phase("heart", "Running")
    await testbed.wait_for_phase("next", "Running")
    await testbed.delete("next")


def admitted(job: Object) -> str:
    return str(condition(job, "Admitted")["message"])


async def test_the_aggregators_termination_message_completes_the_job(
    testbed: Testbed, kubelet: Kubelet
) -> None:
    await start(testbed)
    [aggregator] = await testbed.pods("heart", "coordinator")
    message = TerminationMessage(
        result=Result.COMPLETE, step=12, samples=3600, metrics={"eval/accuracy": 0.91}
    )
    await kubelet.end(aggregator, 0, message=message)
    job = await testbed.wait_for_phase("heart", "Complete")
    assert condition(job, "Complete")["message"] == "Training is complete: eval/accuracy 0.91."
    assert job["status"]["training"]["round"] == 12
    assert job["status"]["training"]["evaluation"] == {"eval/accuracy": 0.91}


async def test_a_suspended_federation_releases_its_pods_and_resumes(
    testbed: Testbed, kubelet: Kubelet
) -> None:
    parties = await start(testbed)
    await testbed.update_spec("heart", suspend=True)
    await testbed.wait_for_phase("heart", "Suspending")
    for pod in parties:
        await kubelet.end(pod, 0, message=TerminationMessage(result=Result.SUSPENDED))
    job = await testbed.wait_for_phase("heart", "Suspended")
    assert {p["state"] for p in job["status"]["parties"]} == {"Stopped"}

    async def only_the_aggregator() -> None:
        assert [p["metadata"]["name"] for p in await testbed.pods("heart")] == [
            "heart-coordinator-1"
        ]

    await eventually(only_the_aggregator)
    await testbed.update_spec("heart", suspend=False)
    await testbed.wait_for_phase("heart", "Running")


async def test_unsupported_fields_of_a_federation_are_rejected_with_a_message(
    testbed: Testbed,
) -> None:
    await testbed.federate("heart", PARTIES, strategy={"name": "Krum"}, update={"maxNorm": 3})
    job = await testbed.wait_for_phase("heart", "Pending")
    message = condition(job, "Accepted")["message"]
    assert condition(job, "Accepted")["reason"] == "NotSupportedYet"
    assert "spec.strategy.name (use FedAvg, FedProx or FedAdam)" in message
    assert "spec.update.maxNorm (leave it out)" in message
    assert await testbed.pods("heart") == []


async def test_external_parties_are_awaited_while_the_others_train(
    testbed: Testbed, kubelet: Kubelet
) -> None:
    await testbed.add_nodes(0, is_attended=False)
    parties = [*PARTIES, {"name": "zoe", "external": True}]
    await testbed.federate("heart", parties, rounds={"minParties": 3})
    await testbed.wait_for_pods("heart", *ALL)
    job = await testbed.wait_for_phase("heart", "Running")
    assert party(job, "zoe")["state"] == "AwaitsEnrolment"
    await testbed.federate("alone", [{"name": "zoe", "external": True}])
    job = await testbed.wait_for_phase("alone", "Pending")
    assert "external parties cannot enroll yet" in condition(job, "Accepted")["message"]


async def test_an_image_of_another_release_is_reported_and_does_not_fail_the_job(
    testbed: Testbed, kubelet: Kubelet
) -> None:
    await testbed.add_nodes(0, is_attended=False)
    kubelet.starts = False
    await testbed.federate("heart", PARTIES, failure={"maxRestarts": 0})

    async def created() -> list[Object]:
        pods = await testbed.pods("heart")
        assert len(pods) == 4
        return pods

    for pod in await eventually(created):
        await kubelet.fail(
            pod, "the operator speaks wire version 1, this trainer 2", Exit.WIRE_MISMATCH
        )
    job = await testbed.wait_for(
        "heart", lambda job: condition(job, "Degraded")["reason"] == "WireMismatch"
    )
    assert "tried again every 5 min" in condition(job, "Degraded")["message"]
    job = await testbed.wait_for("heart", lambda job: len(job["status"]["failures"]) == 4)
    assert job["status"].get("restarts", 0) == 0
    assert job["status"]["phase"] == "Starting"
    assert condition(job, "Failed")["status"] == ""
