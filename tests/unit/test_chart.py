"""The Helm chart: its manifests, the rights that it grants, and the values that it rejects."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

import trainyard
from tools.localcluster.binaries import ensure_binaries
from trainyard.api.durations import parse_duration
from trainyard.api.names import master_secret_name
from trainyard.cluster.installations import CONFIG_MAP
from trainyard.cluster.leaderelection import LeaseTimings

pytestmark = pytest.mark.timeout(1800)
"""Helm is built with the local cluster's programs if it is not installed."""

ROOT = Path(__file__).parents[2]
CHART = ROOT / "manifests" / "charts" / "trainyard"
CRDS = ROOT / "crds"

POOL = {
    "name": "a100",
    "resource": "nvidia.com/gpu",
    "gpus": 8,
    "labels": {"cloud.example/pool": "a100"},
    "taints": [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}],
    "maxNodes": 10,
}

Manifest = dict[str, Any]


@pytest.fixture(scope="module")
def helm() -> str:
    return shutil.which("helm") or str(ensure_binaries()["helm"])


def run_helm(helm: str, *args: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [helm, *map(str, args)], capture_output=True, text=True, check=False, timeout=60
    )


def render(helm: str, *sets: str) -> list[Manifest]:
    """Render the chart as release `trainyard` in `trainyard-system`."""
    args = [arg for value in sets for arg in ("--set-json", value)]
    done = run_helm(helm, "template", "trainyard", CHART, "-n", "trainyard-system", *args)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    return [m for m in manifests if m["kind"] == kind]


def one(manifests: list[Manifest], kind: str) -> Manifest:
    (found,) = of_kind(manifests, kind)
    return found


def canonical_crds() -> dict[str, Manifest]:
    documents = (yaml.safe_load(path.read_text()) for path in CRDS.glob("*.yaml"))
    return {d["metadata"]["name"]: d for d in documents}


def grants(role: Manifest) -> dict[str, set[str]]:
    """Return the verbs that a role grants, by `group/resource`."""
    allowed: dict[str, set[str]] = {}
    for rule in role["rules"]:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                allowed.setdefault(f"{group}/{resource}", set()).update(rule["verbs"])
    return allowed


JOB_GRANTS = {
    "trainyard.dev/distributedjobs": {"get", "list", "watch", "delete"},
    "trainyard.dev/distributedjobs/status": {"update", "patch"},
    "trainyard.dev/distributedjobs/finalizers": {"update"},
    "trainyard.dev/federatedjobs": {"get", "list", "watch", "delete"},
    "trainyard.dev/federatedjobs/status": {"update", "patch"},
    "trainyard.dev/federatedjobs/finalizers": {"update"},
    "/pods": {"get", "list", "watch", "create", "delete"},
    "/services": {"create", "get"},
    "/secrets": {"create", "patch"},
    "/events": {"create", "list"},
}
CLUSTER_GRANTS = {
    "/nodes": {"list", "watch"},
    "scheduling.k8s.io/priorityclasses": {"list"},
}


def own_role(manifests: list[Manifest]) -> Manifest:
    """The Role in the operator's own namespace."""
    (found,) = (
        role
        for role in of_kind(manifests, "Role")
        if role["metadata"]["namespace"] == "trainyard-system"
    )
    return found


def test_lint_finds_nothing(helm: str) -> None:
    done = run_helm(helm, "lint", "--strict", CHART)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rendered_crds_equal_the_canonical_ones(helm: str) -> None:
    rendered = of_kind(render(helm), "CustomResourceDefinition")
    assert {crd["metadata"]["name"]: crd for crd in rendered} == canonical_crds()


def test_a_packaged_chart_contains_the_canonical_crds(helm: str, tmp_path: Path) -> None:
    done = run_helm(helm, "package", CHART, "--destination", tmp_path)
    assert done.returncode == 0, done.stderr
    (package,) = tmp_path.glob("*.tgz")
    with tarfile.open(package) as archive:
        for crd in CRDS.glob("*.yaml"):
            member = archive.extractfile(f"trainyard/files/crds/{crd.name}")
            assert member is not None
            assert member.read() == crd.read_bytes()


def test_a_chart_without_its_crds_fails(helm: str, tmp_path: Path) -> None:
    """As a tool fetches it that leaves symbolic links out."""
    copy = shutil.copytree(CHART, tmp_path / "trainyard", ignore=lambda _, __: ["files"])
    done = run_helm(helm, "template", "trainyard", copy)
    assert done.returncode != 0
    assert "this copy of the chart has no CRDs" in done.stderr
    left_out = run_helm(helm, "template", "trainyard", copy, "--set", "crds.install=false")
    assert left_out.returncode == 0, left_out.stderr


def test_uninstalling_the_chart_keeps_the_crds() -> None:
    for crd in canonical_crds().values():
        assert crd["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_the_crds_can_be_left_out(helm: str) -> None:
    assert of_kind(render(helm, "crds.install=false"), "CustomResourceDefinition") == []


def test_the_cluster_role_grants_only_what_the_operator_needs(helm: str) -> None:
    role = one(render(helm), "ClusterRole")
    assert grants(role) == JOB_GRANTS | CLUSTER_GRANTS


@pytest.mark.parametrize("watched", ["", 'watchNamespaces=["team-a"]'])
def test_a_release_that_is_being_replaced_can_still_write_statuses(helm: str, watched: str) -> None:
    """Helm applies the rights before the new pods are ready, and the old leader acts until then."""
    manifests = render(helm, *([watched] if watched else []))
    roles = [one(manifests, "ClusterRole"), *of_kind(manifests, "Role")]
    served = [grants(role) for role in roles if "/pods" in grants(role)]
    assert served
    for allowed in served:
        for kind in ("distributedjobs", "federatedjobs"):
            assert "patch" in allowed[f"trainyard.dev/{kind}/status"]


def test_secrets_are_readable_only_in_the_operators_namespace(helm: str) -> None:
    role = own_role(render(helm))
    assert role["metadata"]["namespace"] == "trainyard-system"
    assert grants(role) == {
        "/secrets": {"get", "list", "create", "patch", "delete"},
        "coordination.k8s.io/leases": {"create", "get", "update"},
    }


def test_only_the_master_secret_is_readable_by_name_and_writable(helm: str) -> None:
    rules = [r for r in own_role(render(helm))["rules"] if "secrets" in r["resources"]]
    by_verb = {verb: rule.get("resourceNames") for rule in rules for verb in rule["verbs"]}
    named = {"get": [master_secret_name()], "patch": [master_secret_name()]}
    assert by_verb == {**named, "create": None, "list": None, "delete": None}


def test_only_the_operators_lease_is_writable(helm: str) -> None:
    manifests = render(helm)
    rules = [r for r in own_role(manifests)["rules"] if "leases" in r["resources"]]
    by_verb = {verb: rule.get("resourceNames") for rule in rules for verb in rule["verbs"]}
    (container,) = one(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert by_verb == {"create": None, "get": ["trainyard"], "update": ["trainyard"]}
    assert "--lease-name=trainyard" in container["args"]
    without = own_role(render(helm, "leaderElection.enabled=false", "replicas=1"))
    assert set(grants(without)) == {"/secrets"}


def test_only_the_record_of_installations_is_writable_outside_of_it(helm: str) -> None:
    manifests = render(helm)
    (role,) = (r for r in of_kind(manifests, "Role") if r["metadata"]["namespace"] == "kube-public")
    by_verb = {verb: r.get("resourceNames") for r in role["rules"] for verb in r["verbs"]}
    assert grants(role) == {"/configmaps": {"create", "get", "update"}}
    assert by_verb == {"create": None, "get": [CONFIG_MAP], "update": [CONFIG_MAP]}
    (container,) = one(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert "--installations-namespace=kube-public" in container["args"]
    without = render(helm, 'installations.namespace=""')
    assert [role["metadata"]["namespace"] for role in of_kind(without, "Role")] == [
        "trainyard-system"
    ]
    assert "installations" not in str(one(without, "Deployment"))


def test_watched_namespaces_limit_the_rights_to_them(helm: str) -> None:
    manifests = render(helm, 'watchNamespaces=["team-a","team-b"]')
    assert grants(one(manifests, "ClusterRole")) == CLUSTER_GRANTS
    roles = {
        r["metadata"]["namespace"]: grants(r)
        for r in of_kind(manifests, "Role")
        if r["metadata"]["name"].endswith("-jobs")
    }
    assert roles == {"team-a": JOB_GRANTS, "team-b": JOB_GRANTS}


@pytest.mark.parametrize("namespaces", ["[]", '["team-a"]'], ids=["all", "named"])
def test_every_role_is_bound_to_the_operators_account(helm: str, namespaces: str) -> None:
    manifests = render(helm, f"watchNamespaces={namespaces}")
    account = one(manifests, "ServiceAccount")["metadata"]
    for kind in ("Role", "ClusterRole"):
        bindings = of_kind(manifests, f"{kind}Binding")
        bound = {(b["metadata"].get("namespace"), b["roleRef"]["name"]) for b in bindings}
        roles = of_kind(manifests, kind)
        assert bound == {(r["metadata"].get("namespace"), r["metadata"]["name"]) for r in roles}
        for binding in bindings:
            assert binding["subjects"] == [
                {"kind": "ServiceAccount", "name": account["name"], "namespace": "trainyard-system"}
            ]


def test_the_values_become_the_operators_arguments(helm: str) -> None:
    manifests = render(
        helm,
        'watchNamespaces=["team-a","team-b"]',
        'priorityClasses={"urgent":["team-a","team-b"],"nobody":[]}',
        f"pools={json.dumps([POOL])}",
        'logLevel="debug"',
        'logFormat="text"',
        'scrapeInterval="2s"',
        'scrapeTimeout="1s"',
        'unreachableTimeout="2m"',
        'replaceTimeout="5m"',
        'stalledAfter="10m"',
        'start={"blockedTimeout":"30s","maxBackoff":"2h"}',
        'trainerImage={"repository":"registry.example/trainer","tag":"2"}',
        'clusterDomain="corp.example"',
        'serviceName="coordinators"',
        'extraArgs=["--http-host=::"]',
    )
    (container,) = one(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["python", "-m", "trainyard"]
    assert container["args"] == [
        "--operator-namespace=trainyard-system",
        "--namespace=team-a",
        "--namespace=team-b",
        "--priority-class=nobody=",
        "--priority-class=urgent=team-a,team-b",
        f"--pool={json.dumps(POOL, separators=(',', ':'), sort_keys=True)}",
        "--leader-elect",
        "--lease-name=trainyard",
        "--lease-duration=15s",
        "--renew-deadline=10s",
        "--retry-period=2s",
        "--installations-namespace=kube-public",
        "--http-port=8080",
        "--log-level=debug",
        "--log-format=text",
        "--scrape-interval=2s",
        "--scrape-timeout=1s",
        "--unreachable-timeout=2m",
        "--replace-timeout=5m",
        "--stalled-after=10m",
        "--start-timeout=10m",
        "--blocked-start-timeout=30s",
        "--start-backoff=2m",
        "--max-start-backoff=2h",
        "--pod-events-after=20s",
        "--cluster-domain=corp.example",
        "--trainer-image=registry.example/trainer:2",
        "--service-name=coordinators",
        "--run-as-user=65532",
        "--http-host=::",
    ]


def test_the_pod_meets_the_restricted_pod_security_standard(helm: str) -> None:
    pod = one(render(helm), "Deployment")["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 65532
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
    assert [set(volume) - {"name"} for volume in pod["volumes"]] == [{"emptyDir"}]


def test_the_user_can_be_left_to_the_platform(helm: str) -> None:
    """As OpenShift's restricted-v2 demands, for the operator's pod and those of the jobs."""
    pod = one(render(helm, "podSecurity.runAsUser=null"), "Deployment")["spec"]["template"]["spec"]
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert "--run-as-user=platform" in pod["containers"][0]["args"]


def test_another_user_is_that_of_the_operator_and_of_the_jobs(helm: str) -> None:
    user = 1_000_700_000
    pod = one(render(helm, f"podSecurity.runAsUser={user}"), "Deployment")["spec"]["template"]
    context = pod["spec"]["securityContext"]
    assert [context[field] for field in ("runAsUser", "runAsGroup", "fsGroup")] == [user] * 3
    assert f"--run-as-user={user}" in pod["spec"]["containers"][0]["args"]


def test_the_probes_and_the_service_reach_the_port_that_the_operator_opens(helm: str) -> None:
    manifests = render(helm)
    deployment = one(manifests, "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["ports"] == [{"name": "http", "containerPort": 8080}]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"] == {"path": "/healthz", "port": "http"}
    service = one(manifests, "Service")["spec"]
    assert service["ports"][0]["targetPort"] == "http"
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["selector"].items() <= labels.items()
    assert deployment["spec"]["selector"]["matchLabels"] == service["selector"]


def test_two_replicas_roll_one_by_one_and_prefer_different_nodes(helm: str) -> None:
    manifests = render(helm)
    deployment = one(manifests, "Deployment")["spec"]
    assert deployment["replicas"] == 2
    assert deployment["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
    }
    affinity = deployment["template"]["spec"]["affinity"]["podAntiAffinity"]
    (term,) = affinity["preferredDuringSchedulingIgnoredDuringExecution"]
    assert term["podAffinityTerm"]["labelSelector"] == deployment["selector"]
    budget = one(manifests, "PodDisruptionBudget")["spec"]
    assert budget == {"maxUnavailable": 1, "selector": deployment["selector"]}


def test_a_given_affinity_replaces_the_default(helm: str) -> None:
    own: Manifest = {"nodeAffinity": {}}
    pod = one(render(helm, f"affinity={json.dumps(own)}"), "Deployment")["spec"]["template"]["spec"]
    assert pod["affinity"] == own


def test_without_leader_election_the_old_pod_stops_before_the_new_one_starts(helm: str) -> None:
    manifests = render(helm, "leaderElection.enabled=false", "replicas=1")
    deployment = one(manifests, "Deployment")["spec"]
    assert deployment["strategy"] == {"type": "Recreate"}
    (container,) = deployment["template"]["spec"]["containers"]
    assert not [arg for arg in container["args"] if "lease" in arg or "elect" in arg]
    assert of_kind(manifests, "PodDisruptionBudget") == []


def test_the_charts_lease_timings_equal_the_operators_defaults(helm: str) -> None:
    (container,) = one(render(helm), "Deployment")["spec"]["template"]["spec"]["containers"]
    flags = dict(arg[2:].split("=") for arg in container["args"] if "=" in arg)
    names = {"duration": "lease-duration", "renew_deadline": "renew-deadline"}
    names["retry"] = "retry-period"
    assert (
        LeaseTimings(**{field: parse_duration(flags[flag]) for field, flag in names.items()})
        == LeaseTimings()
    )


@pytest.mark.parametrize(
    ("value", "image"),
    {
        "the chart's version": ("image.tag=null", f"trainyard-operator:{trainyard.__version__}"),
        "a tag": ('image.tag="1.2"', "trainyard-operator:1.2"),
        "a digest": (
            f'image={{"tag": "1.2", "digest": "sha256:{"0" * 64}"}}',
            f"trainyard-operator@sha256:{'0' * 64}",
        ),
    }.values(),
)
def test_the_image_is_set_by(helm: str, value: str, image: str) -> None:
    pod = one(render(helm, value), "Deployment")["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == image


def test_monitors_are_off_by_default(helm: str) -> None:
    kinds = {m["kind"] for m in render(helm)}
    assert not kinds & {"ServiceMonitor", "PodMonitor", "Namespace"}
    enabled = render(
        helm, "serviceMonitor.create=true", 'podMonitor={"create":true,"labels":{"a":"b"}}'
    )
    assert one(enabled, "ServiceMonitor")["spec"]["endpoints"][0]["path"] == "/metrics"
    assert one(enabled, "PodMonitor")["metadata"]["labels"]["a"] == "b"


def test_nothing_keeps_prometheus_out_by_default(helm: str) -> None:
    assert of_kind(render(helm), "NetworkPolicy") == []


def test_the_network_policy_lets_only_the_named_pods_reach_the_operators_port(helm: str) -> None:
    peer = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    value = f'networkPolicy={{"create":true,"from":[{json.dumps(peer)}]}}'
    manifests = render(helm, value)
    policy = one(manifests, "NetworkPolicy")["spec"]
    deployment = one(manifests, "Deployment")["spec"]
    assert policy == {
        "podSelector": deployment["selector"],
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [peer], "ports": [{"port": "http", "protocol": "TCP"}]}],
    }
    (container,) = deployment["template"]["spec"]["containers"]
    assert {"name": "http", "containerPort": 8080} in container["ports"]


def test_a_network_policy_that_names_nobody_lets_nobody_in(helm: str) -> None:
    policy = one(render(helm, "networkPolicy.create=true"), "NetworkPolicy")["spec"]
    assert policy["ingress"] == [], "a rule without `from` would let everybody in"


@pytest.mark.parametrize(
    ("value", "expected"),
    {
        "an unknown value": ("replica=1", "replica"),
        "an unknown nested value": ("image.name=1", "name"),
        "two operators without an election": (
            "leaderElection.enabled=false",
            "need leaderElection.enabled",
        ),
        "an election without a unit": ('leaderElection.retryPeriod="2"', "retryPeriod"),
        "an invalid level": ('logLevel="loud"', "logLevel"),
        "an unknown log format": ('logFormat="xml"', "logFormat"),
        "an interval without a unit": ('scrapeInterval="5"', "scrapeInterval"),
        "a namespace with a bad name": ('watchNamespaces=["Team"]', "watchNamespaces"),
        "a class without a list": ('priorityClasses={"urgent":"team-a"}', "priorityClasses"),
        "a class for a bad namespace": ('priorityClasses={"a":["Team"]}', "priorityClasses"),
        "a pool without GPUs": ('pools=[{"name":"a"}]', "gpus"),
        "a pool of unknown nodes": ('pools=[{"labels":{}}]', "labels"),
        "an unknown field of a pool": ('pools=[{"nodes":1}]', "nodes"),
        "a name that no Service can have": ('serviceName="9th"', "serviceName"),
        "an empty name of the Service": ('serviceName=""', "serviceName"),
        "an invalid digest": ('image.digest="latest"', "digest"),
        "an account without a name": ("serviceAccount.create=false", "serviceAccount.name must"),
        "a monitor without its service": (
            "serviceMonitor.create=true,service.create=false",
            "needs service.create",
        ),
        "a monitor that the network policy keeps out": (
            "podMonitor.create=true,networkPolicy.create=true",
            "networkPolicy.create needs networkPolicy.from",
        ),
        "jobs where the admission policies allow none": (
            'admissionPolicies.enabled=true,watchNamespaces=["default"]',
            "take it out of watchNamespaces",
        ),
        "an audience that ends its expression": (
            """admissionPolicies.tokenAudiences=["a'b"]""",
            "tokenAudiences",
        ),
    }.values(),
)
def test_invalid_values_are_rejected(helm: str, value: str, expected: str) -> None:
    args = [arg for part in value.split(",") for arg in ("--set-json", part)]
    done = run_helm(helm, "template", "trainyard", CHART, *args)
    assert done.returncode != 0
    assert expected in done.stderr


def test_plain_manifests_are_complete(helm: str) -> None:
    manifests = render(helm, "namespace.create=true")
    namespace = one(manifests, "Namespace")["metadata"]
    assert namespace["name"] == "trainyard-system"
    assert namespace["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert of_kind(manifests, "CustomResourceDefinition")
    for manifest in manifests:
        is_namespaced = not re.match(r"Cluster|Namespace|CustomResource", manifest["kind"])
        assert ("namespace" in manifest["metadata"]) == is_namespaced


def test_the_chart_has_the_version_of_the_code() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert str(chart["appVersion"]) == trainyard.__version__


def test_every_value_has_a_comment() -> None:
    lines = (CHART / "values.yaml").read_text().splitlines()
    undocumented = [
        line
        for before, line in pairwise(lines)
        if re.match(r"(  )?\w+: \S", line) and not before.lstrip().startswith("#")
    ]
    assert undocumented == []


def test_schema_and_values_have_the_same_names() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert set(names(values)) == set(schema_names(schema, schema["definitions"])) - {"global"}


def names(values: Manifest, prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, dict) and value and key not in ("requests", "limits"):
            yield from names(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def schema_names(schema: Manifest, definitions: Manifest, prefix: str = "") -> Iterator[str]:
    for key, value in schema["properties"].items():
        found = definitions[value["$ref"].rpartition("/")[2]] if "$ref" in value else value
        if "properties" in found:
            yield from schema_names(found, definitions, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"
