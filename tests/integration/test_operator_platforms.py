"""Clusters that refuse pods without a label of theirs, or with a user that they did not assign."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support import manifests
from tests.support.manifests import Object
from tests.support.testbed import Testbed, workers
from tests.support.waiting import eventually
from trainyard.cluster.client import KubeClient
from trainyard.cluster.errors import ApiError

pytestmark = [
    pytest.mark.integration,
    pytest.mark.usefixtures("operator", "platform"),
]

ADMISSION = "/apis/admissionregistration.k8s.io/v1"
TEAM = "has(object.metadata.labels) && 'team' in object.metadata.labels"
RANGE = (
    "!has(object.spec.securityContext) || !has(object.spec.securityContext.runAsUser) || "
    "object.spec.securityContext.runAsUser >= 1000700000"
)
"""As OpenShift's restricted-v2, which refuses any user outside the namespace's range."""
PLURALS = ("validatingadmissionpolicies", "validatingadmissionpolicybindings")


@pytest.fixture(scope="module")
def operator_options() -> tuple[str, ...]:
    return ("--run-as-user", "platform")


@pytest.fixture
async def platform(testbed: Testbed, kube: KubeClient) -> AsyncIterator[None]:
    """The testbed's namespace under these policies and the restricted Pod Security Standard."""
    name = testbed.namespace
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    await testbed.patch(f"/api/v1/namespaces/{name}", {"metadata": {"labels": labels}})
    selector = {"matchLabels": {"kubernetes.io/metadata.name": name}}
    pods = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"]}
    rules = [{**pods, "resources": ["pods"]}]
    policy = {
        "failurePolicy": "Fail",
        "matchConstraints": {"namespaceSelector": selector, "resourceRules": rules},
        "validations": [{"expression": TEAM}, {"expression": RANGE}],
    }
    binding = {"policyName": name, "validationActions": ["Deny"]}
    for plural, spec in zip(PLURALS, (policy, binding), strict=True):
        await kube.create(f"{ADMISSION}/{plural}", {"metadata": {"name": name}, "spec": spec})
    await eventually(lambda: _is_enforced(testbed))
    yield
    for plural in PLURALS:
        await kube.delete(f"{ADMISSION}/{plural}/{name}")


async def _is_enforced(testbed: Testbed) -> None:
    """Check that a pod without the label is refused by the policy."""
    container = {
        "name": "c",
        "image": "i",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    pod = {"metadata": {"generateName": "probe-"}, "spec": {"containers": [container]}}
    refusal = ""
    try:
        await testbed.client.request("POST", testbed.path("pods"), query=DRY, body=pod)
    except ApiError as error:
        refusal = error.message
    assert "ValidatingAdmissionPolicy" in refusal


DRY = {"dryRun": "All"}
LABELLED = {"metadata": {"labels": {"team": "vision"}, "annotations": {"a": "b"}}}


def identities(pod: Object) -> set[str]:
    """The fields of a pod's security context that name users and groups."""
    return set(pod["spec"]["securityContext"]) & {"runAsUser", "runAsGroup", "fsGroup"}


async def test_jobs_of_both_kinds_run_there(testbed: Testbed) -> None:
    await testbed.add_nodes(8)
    coordinator = {"template": LABELLED}
    await testbed.submit("digits", 2, template=LABELLED, coordinator=coordinator)
    pods = await testbed.wait_for_pods("digits", "coordinator-1", *workers(0, 1))
    hearts = manifests.federation("hearts", testbed.namespace, [{"name": "ann", "gpus": 1}])
    hearts["spec"] |= {
        "template": {**hearts["spec"]["template"], **LABELLED},
        "coordinator": coordinator,
    }
    await testbed.create_job(hearts)
    pods += await testbed.wait_for_pods("hearts", "coordinator-1", "party-ann-1")
    for pod in pods:
        assert pod["metadata"]["labels"]["team"] == "vision"
        assert pod["metadata"]["annotations"]["a"] == "b"
        assert identities(pod) == set()


async def test_a_job_that_says_nothing_is_told_what_the_cluster_demands(testbed: Testbed) -> None:
    await testbed.add_nodes(8)
    await testbed.submit("digits", 1, template=LABELLED)

    def is_refused(job: Object) -> bool:
        return any(
            c["reason"] == "ChildRefused" and "'team' in object.metadata.labels" in c["message"]
            for c in job.get("status", {}).get("conditions", ())
        )

    await testbed.wait_for("digits", is_refused)


async def test_a_user_of_the_template_is_the_pods(testbed: Testbed) -> None:
    await testbed.add_nodes(8)
    user = {"securityContext": {"runAsUser": 1_000_700_001, "fsGroup": 1_000_700_001}}
    coordinator = {"template": LABELLED}
    await testbed.submit("digits", 1, template={**LABELLED, **user}, coordinator=coordinator)
    pods = await testbed.wait_for_pods("digits", "coordinator-1", "worker-0-1")
    for pod in pods:
        assert pod["spec"]["securityContext"]["runAsUser"] == 1_000_700_001
        assert identities(pod) == {"runAsUser", "fsGroup"}
