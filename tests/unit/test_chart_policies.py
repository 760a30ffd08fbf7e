"""The chart's admission policies: what they cover, and whom they concern."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.unit.test_chart import Manifest, helm, of_kind, one, render
from trainyard.api.names import (
    FEDERATED_JOB,
    GROUP,
    LABEL_JOB,
    LABEL_MANAGED_BY,
    LABEL_ROLE,
    leaf_secret_name,
    master_secret_name,
)
from trainyard.cluster.installations import CONFIG_MAP

__all__ = ["helm"]  # a fixture

POLICY, BINDING = "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"
ENABLED = "admissionPolicies.enabled=true"
OWN_KINDS = {"trainyard.dev"}
"""The right to write statuses and delete jobs is bounded by RBAC alone."""
UNBOUND = {"events"}
"""Nothing depends on them."""
OPERATIONS = {"create": "CREATE", "update": "UPDATE", "patch": "UPDATE", "delete": "DELETE"}


@pytest.fixture(scope="module")
def manifests(helm: str) -> list[Manifest]:
    return render(helm, ENABLED)


def policy(manifests: list[Manifest], name: str) -> Manifest:
    (found,) = (p for p in of_kind(manifests, POLICY) if p["metadata"]["name"] == name)
    spec: Manifest = found["spec"]
    return spec


def expressions(spec: Manifest) -> str:
    parts = [*spec["validations"], *spec.get("variables", ())]
    return "\n".join(part["expression"] for part in parts)


def test_no_policy_is_made_by_default(helm: str) -> None:
    assert of_kind(render(helm), POLICY) == of_kind(render(helm), BINDING) == []


def test_every_policy_is_bound_and_denies(manifests: list[Manifest]) -> None:
    names = {p["metadata"]["name"] for p in of_kind(manifests, POLICY)}
    bindings = [b["spec"] for b in of_kind(manifests, BINDING)]
    assert {b["policyName"] for b in bindings} == names
    assert all(b["validationActions"] == ["Deny"] for b in bindings)


def test_the_policies_concern_the_operators_account_alone(helm: str) -> None:
    manifests = render(helm, ENABLED, 'serviceAccount={"create":false,"name":"trains"}')
    assert (
        one(manifests, "Deployment")["spec"]["template"]["spec"]["serviceAccountName"] == "trains"
    )
    account = "system:serviceaccount:trainyard-system:trains"
    for each in of_kind(manifests, POLICY):
        (condition,) = each["spec"]["matchConditions"]
        assert condition["expression"] == f"request.userInfo.username == '{account}'"
        assert each["spec"]["failurePolicy"] == "Fail"
        assert each["apiVersion"] == "admissionregistration.k8s.io/v1"


@pytest.mark.parametrize("watched", ["", 'watchNamespaces=["team-a"]'], ids=["all", "named"])
def test_every_right_to_write_is_bounded(helm: str, watched: str) -> None:
    """A right that somebody adds to a role needs its policy."""
    manifests = render(helm, ENABLED, *([watched] if watched else []))
    covered = set(_covered(manifests))
    written = set(_written(manifests))
    assert ("secrets", "CREATE") in written
    assert ("pods", "DELETE") in written
    assert written <= covered


def _covered(manifests: list[Manifest]) -> Iterator[tuple[str, str]]:
    for each in of_kind(manifests, POLICY):
        for rule in each["spec"]["matchConstraints"]["resourceRules"]:
            for resource in rule["resources"]:
                yield from ((resource, operation) for operation in rule["operations"])


def _written(manifests: list[Manifest]) -> Iterator[tuple[str, str]]:
    for role in [*of_kind(manifests, "Role"), *of_kind(manifests, "ClusterRole")]:
        for rule in role["rules"]:
            if OWN_KINDS & set(rule["apiGroups"]):
                continue
            for resource in set(rule["resources"]) - UNBOUND:
                for verb in OPERATIONS.keys() & set(rule["verbs"]):
                    yield resource, OPERATIONS[verb]


def test_the_policies_name_what_the_operator_makes(helm: str) -> None:
    manifests = render(helm, ENABLED, 'serviceName="coordinators"')
    secrets = expressions(policy(manifests, "trainyard-secrets"))
    assert f"== '{master_secret_name()}'" in secrets
    assert f"endsWith('{leaf_secret_name('')}')" in secrets
    assert "object.type == 'Opaque'" in secrets
    services = expressions(policy(manifests, "trainyard-services"))
    assert "object.metadata.name == 'coordinators'" in services
    assert f"'{LABEL_ROLE}' in object.spec.selector" in services
    pods = expressions(policy(manifests, "trainyard-pods"))
    assert f"'{LABEL_JOB}' in variables.pod.metadata.labels" in pods
    assert f"labels['{LABEL_MANAGED_BY}'] == 'trainyard'" in pods
    for owned in (secrets, pods):
        assert f"startsWith('{GROUP}/')" in owned
        assert f"'{FEDERATED_JOB}'" in owned
    records = expressions(policy(manifests, "trainyard-records"))
    assert f"'{CONFIG_MAP}'" in records
    (container,) = one(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
    lease = next(arg for arg in container["args"] if arg.startswith("--lease-name="))
    assert f"'{lease.partition('=')[2]}'" in records


@pytest.mark.parametrize("name", ["secrets", "pods", "services"])
def test_protected_namespaces_stand_beside_the_releases_own(helm: str, name: str) -> None:
    protected = 'admissionPolicies.protectedNamespaces=["cert-manager"]'
    found: Any = expressions(policy(render(helm, ENABLED, protected), f"trainyard-{name}"))
    assert "!request.namespace.startsWith('kube-')" in found
    assert "request.namespace in ['trainyard-system', 'cert-manager']" in found


def test_only_named_audiences_get_a_token(helm: str, manifests: list[Manifest]) -> None:
    audiences = "s.serviceAccountToken.audience in "
    assert f"{audiences}[])" in expressions(policy(manifests, "trainyard-pods"))
    allowed = render(helm, ENABLED, 'admissionPolicies.tokenAudiences=["sts.amazonaws.com"]')
    assert f"{audiences}['sts.amazonaws.com'])" in expressions(policy(allowed, "trainyard-pods"))
