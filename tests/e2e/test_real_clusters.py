"""What is written arrives in real pods, and what real clusters add to pods is in nobody's way."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest

from tests.e2e.conftest import claim, digits
from tests.e2e.testbed import Testbed, trains_on
from tests.support.testbed import condition
from tests.support.waiting import eventually
from trainyard.cluster.errors import ApiError

ADMISSION = "/apis/admissionregistration.k8s.io/v1"
PLURALS = ("mutatingadmissionpolicies", "mutatingadmissionpolicybindings")
PROXY = """
[JSONPatch{op: "add", path: "/spec/containers/-", value: Object.spec.containers{
  name: "proxy", image: "trainyard-trainer:0.1.0",
  command: ["sh", "-c", "trap exit TERM; sleep 86400 & wait"],
  securityContext: Object.spec.containers.securityContext{
    allowPrivilegeEscalation: false,
    capabilities: Object.spec.containers.securityContext.capabilities{drop: ["ALL"]}}}}]
"""
"""A container as a service mesh adds it, which ends only when it is told to."""


async def test_arguments_arrive_as_they_are_written(testbed: Testbed) -> None:
    """Kubernetes replaces `$(NAME)` and `$$` in variables: wanted in the template alone."""
    template = await testbed.provide_code("literal.py")
    price = {"name": "PRICE", "value": "US$$ of $(TRAINYARD_JOB)"}
    args = {
        "price": "price in US$$ (not US$), ${HOME} and $",
        "run": "run-$(TRAINYARD_JOB)-$(TRAINYARD_NAMESPACE)",
    }
    template["env"] = [*template["env"], price]
    await testbed.create_job(
        digits(
            "literal",
            task={"entrypoint": "literal:Literal", "args": args},
            workers={"template": template},
            training={"epochs": 1},
        )
    )
    await testbed.wait_for_completion("literal")


@pytest.fixture
async def mesh(testbed: Testbed) -> AsyncIterator[None]:
    """A policy that adds a container to each pod of the namespace."""
    name = testbed.namespace
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}
    selector = {"matchLabels": {"kubernetes.io/metadata.name": name}}
    policy = {
        "failurePolicy": "Fail",
        "reinvocationPolicy": "Never",
        "matchConstraints": {
            "namespaceSelector": selector,
            "resourceRules": [{**rule, "operations": ["CREATE"]}],
        },
        "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": PROXY}}],
    }
    for plural, spec in zip(PLURALS, (policy, {"policyName": name}), strict=True):
        path = f"{ADMISSION}/{plural}"
        await testbed.client.create(path, {"metadata": {"name": name}, "spec": spec})
    await eventually(lambda: _is_in_force(testbed))
    yield
    for plural in PLURALS:
        await testbed.client.delete(f"{ADMISSION}/{plural}/{name}")


async def _is_in_force(testbed: Testbed) -> None:
    containers: list[Any] = []
    probe = {
        "metadata": {"generateName": "probe-"},
        "spec": {
            "securityContext": {
                "runAsNonRoot": True,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "c",
                    "image": "i",
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }
            ],
        },
    }
    try:
        made = await testbed.client.request(
            "POST", testbed.path("pods"), query={"dryRun": "All"}, body=probe
        )
        containers = made["spec"]["containers"]
    except ApiError as error:  # the namespace is new, and has no account for pods yet
        if not error.is_forbidden:
            raise
    assert len(containers) == 2


async def _is_empty(testbed: Testbed, job: str) -> None:
    assert await testbed.pods(job) == []


@pytest.mark.usefixtures("mesh")
async def test_jobs_end_though_a_mesh_adds_containers_that_do_not(testbed: Testbed) -> None:
    await testbed.create_job(
        digits("failing", task={"entrypoint": "trainyard_trainer.tasks.digits:Digitz"})
    )
    await testbed.create("persistentvolumeclaims", claim("state"))
    await testbed.create_job(
        digits("durable", training={"epochs": 2}, state={"claimName": "state"})
    )
    await testbed.create_job(
        digits("killed", workers={"replicas": 2}, training={"epochs": 100_000})
    )
    job = await testbed.wait_for_phase("failing", "Failed")
    assert condition(job, "Failed")["reason"] == "TaskInvalid"
    await testbed.wait_for_completion("durable")
    await testbed.wait_for("killed", trains_on(2), "two workers train")
    _, killed = await testbed.job_pods("killed")
    kill = "import os; os.kill(1, 15)"
    await testbed.execute(killed, "python", "-c", kill)

    async def replaced() -> None:
        pods = [pod.name for pod in await testbed.job_pods("killed")]
        assert pods == ["killed-worker-0-1", "killed-worker-1-2"]

    await eventually(replaced, 90)
    await testbed.wait_for("killed", trains_on(2), "two workers train again")
    for name in ("failing", "durable"):
        await eventually(partial(_is_empty, testbed, name), 60)
