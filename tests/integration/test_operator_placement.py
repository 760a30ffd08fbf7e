"""What kube-scheduler and the API server refuse is given back, and nodes that a pool would add."""

from __future__ import annotations

import json

import pytest

from tests.support.manifests import POOL, Object
from tests.support.testbed import Testbed, condition, phase, scaling
from tests.support.waiting import eventually
from trainyard.api import names

BIND_TIMEOUT = 6
PROVISION_TIMEOUT = 30
ELASTIC = "testbed-elastic"
"""The pool of nodes that an autoscaler would add."""

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("operator")]


@pytest.fixture(scope="module")
def operator_options() -> tuple[str, ...]:
    pool = {
        "name": "elastic",
        "gpus": 4,
        "labels": {"pool": ELASTIC},
        "taints": [{"key": POOL, "value": ELASTIC}],
        "maxNodes": 1,
    }
    return (
        *("--bind-timeout", f"{BIND_TIMEOUT}s", "--provision-timeout", f"{PROVISION_TIMEOUT}s"),
        *("--not-placed-backoff", "1h", "--pool", json.dumps(pool)),
    )


def apart(job: str) -> Object:
    """A template by which no two workers of a job share a node, which the scheduler cannot know."""
    term = {
        "topologyKey": "kubernetes.io/hostname",
        "labelSelector": {"matchLabels": {names.LABEL_JOB: job, names.LABEL_ROLE: "worker"}},
    }
    required = {"requiredDuringSchedulingIgnoredDuringExecution": [term]}
    return {"affinity": {"podAntiAffinity": required}}


async def test_a_growth_that_kube_scheduler_refuses_is_given_back(testbed: Testbed) -> None:
    """It held seven idle GPUs for ever, and every other job waited for them."""
    await testbed.add_nodes(8)
    spread: Object = {"maximum": 8, "minimum": 1, "template": apart("grower")}
    await testbed.submit("grower", 1, **spread)
    await testbed.wait_for_phase("grower", "Running")
    await testbed.scale("grower", 8)
    await testbed.submit("next", 7)
    job = await testbed.wait_for("grower", lambda job: scaling(job).get("notPlaced") is not None)
    assert scaling(job)["notPlaced"]["workers"] == 1
    [event] = await testbed.wait_for_events("grower", "NotPlaced")
    assert "7 of 8 workers got no node in time (0/" in event["message"]
    assert "anti-affinity" in event["message"], "kube-scheduler's own words"
    changes = [(c.get("from", 0), c["to"], c["reason"]) for c in scaling(job)["history"]]
    assert changes == [(0, 1, "Admitted"), (1, 8, "Requested"), (8, 1, "NotPlaced")]
    await testbed.wait_for_phase("next", "Running")
    job = await testbed.wait_for_phase("grower", "Running")
    assert (scaling(job)["desired"], scaling(job)["reason"]) == (1, "NotPlaced")


async def test_a_start_of_which_a_part_is_refused_by_a_quota_runs_with_the_rest(
    testbed: Testbed,
) -> None:
    await testbed.add_nodes(8)
    quota = {"metadata": {"name": "few"}, "spec": {"hard": {"pods": "3"}}}
    await testbed.create("resourcequotas", quota)
    await testbed.submit("digits", 4, minimum=1, maximum=4)
    job = await testbed.wait_for("digits", lambda job: scaling(job).get("desired") == 2)
    assert scaling(job)["notPlaced"]["workers"] == 2
    [event] = await testbed.wait_for_events("digits", "NotPlaced")
    assert "exceeded quota: few" in event["message"]
    job = await testbed.wait_for_phase("digits", "Running")
    assert condition(job, "Running")["status"] == "True"


async def test_a_job_is_admitted_on_nodes_that_a_pool_has_yet_to_add(testbed: Testbed) -> None:
    """Without a Pending pod no autoscaler adds a node."""
    toleration = {"key": POOL, "value": ELASTIC, "effect": "NoSchedule"}
    elastic: Object = {"nodeSelector": {"pool": ELASTIC}, "tolerations": [toleration]}
    await testbed.submit("digits", 4, template=elastic)
    job = await testbed.wait_for_phase("digits", "Starting")
    assert (scaling(job)["reason"], scaling(job)["provisioning"]) == (
        "Provisioning",
        {"pool": "elastic"},
    )

    async def pending() -> None:
        pods = await testbed.pods("digits", "worker")
        assert [pod["status"]["phase"] for pod in pods] == ["Pending"] * 4

    await eventually(pending)
    job = await testbed.wait_for(
        "digits", lambda job: scaling(job)["reason"] == "NotProvisioned", seconds=90
    )
    assert phase(job) == "Waiting"
    assert scaling(job)["provisioning"]["attempts"] == 1
    assert condition(job, "Admitted")["reason"] == "NotProvisioned"
    await testbed.wait_for_pods("digits")
