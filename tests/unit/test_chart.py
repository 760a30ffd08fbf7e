"""The Helm chart: what it renders, what it grants, and what it refuses."""

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
from trainyard.cluster.leaderelection import LeaseTimings

pytestmark = pytest.mark.timeout(1800)
"""Where no helm is installed, it is built with the cluster's programs."""

ROOT = Path(__file__).parents[2]
CHART = ROOT / "manifests" / "charts" / "trainyard"
CRDS = ROOT / "crds"

Manifest = dict[str, Any]


@pytest.fixture(scope="module")
def helm() -> str:
    return shutil.which("helm") or str(ensure_binaries()["helm"])


def run_helm(helm: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [helm, *map(str, words)], capture_output=True, text=True, check=False, timeout=60
    )


def render(helm: str, *sets: str) -> list[Manifest]:
    """The manifests of the chart, installed as `trainyard` in `trainyard-system`."""
    words = [word for value in sets for word in ("--set-json", value)]
    done = run_helm(helm, "template", "trainyard", CHART, "-n", "trainyard-system", *words)
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
    """What a role allows: verbs by `group/resource`."""
    allowed: dict[str, set[str]] = {}
    for rule in role["rules"]:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                allowed.setdefault(f"{group}/{resource}", set()).update(rule["verbs"])
    return allowed


JOB_GRANTS = {
    "trainyard.dev/distributedjobs": {"get", "list", "watch", "delete"},
    "trainyard.dev/distributedjobs/status": {"patch"},
    "trainyard.dev/distributedjobs/finalizers": {"update"},
    "trainyard.dev/federatedjobs": {"get", "list", "watch", "delete"},
    "trainyard.dev/federatedjobs/status": {"patch"},
    "trainyard.dev/federatedjobs/finalizers": {"update"},
    "/pods": {"get", "list", "watch", "create", "delete"},
    "/services": {"create", "patch"},
    "/secrets": {"create", "patch"},
    "/events": {"create"},
}
CLUSTER_GRANTS = {
    "/nodes": {"list", "watch"},
    "scheduling.k8s.io/priorityclasses": {"list"},
}


def test_lint_finds_nothing(helm: str) -> None:
    done = run_helm(helm, "lint", "--strict", CHART)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_rendered_is_what_stands_in_crds(helm: str) -> None:
    rendered = of_kind(render(helm), "CustomResourceDefinition")
    assert {crd["metadata"]["name"]: crd for crd in rendered} == canonical_crds()


def test_a_packaged_chart_holds_the_very_files_of_crds(helm: str, tmp_path: Path) -> None:
    done = run_helm(helm, "package", CHART, "--destination", tmp_path)
    assert done.returncode == 0, done.stderr
    (package,) = tmp_path.glob("*.tgz")
    with tarfile.open(package) as archive:
        for crd in CRDS.glob("*.yaml"):
            member = archive.extractfile(f"trainyard/files/crds/{crd.name}")
            assert member is not None
            assert member.read() == crd.read_bytes()


def test_crds_outlive_the_chart() -> None:
    for crd in canonical_crds().values():
        assert crd["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_crds_can_be_left_to_others(helm: str) -> None:
    assert of_kind(render(helm, "crds.install=false"), "CustomResourceDefinition") == []


def test_the_operator_may_do_in_all_namespaces_just_what_its_work_needs(helm: str) -> None:
    role = one(render(helm), "ClusterRole")
    assert grants(role) == JOB_GRANTS | CLUSTER_GRANTS


def test_secrets_are_read_in_the_operators_own_namespace_only(helm: str) -> None:
    role = one(render(helm), "Role")
    assert role["metadata"]["namespace"] == "trainyard-system"
    assert grants(role) == {
        "/secrets": {"get", "list", "create", "patch", "delete"},
        "coordination.k8s.io/leases": {"create", "get", "update"},
    }


def test_only_the_operators_own_lease_is_written(helm: str) -> None:
    manifests = render(helm)
    rules = [r for r in one(manifests, "Role")["rules"] if "leases" in r["resources"]]
    by_verb = {verb: rule.get("resourceNames") for rule in rules for verb in rule["verbs"]}
    (container,) = one(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert by_verb == {"create": None, "get": ["trainyard"], "update": ["trainyard"]}
    assert "--lease-name=trainyard" in container["args"]
    alone = one(render(helm, "leaderElection.enabled=false", "replicas=1"), "Role")
    assert set(grants(alone)) == {"/secrets"}


def test_with_namespaces_named_nothing_is_granted_beyond_them(helm: str) -> None:
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


def test_the_operator_is_told_where_and_how_to_work(helm: str) -> None:
    manifests = render(
        helm,
        'watchNamespaces=["team-a","team-b"]',
        'logLevel="debug"',
        'logFormat="text"',
        'scrapeInterval="2s"',
        'clusterDomain="corp.example"',
        'extraArgs=["--start-timeout=5m"]',
    )
    (container,) = one(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["python", "-m", "trainyard"]
    assert container["args"] == [
        "--operator-namespace=trainyard-system",
        "--namespace=team-a",
        "--namespace=team-b",
        "--leader-elect",
        "--lease-name=trainyard",
        "--lease-duration=15s",
        "--renew-deadline=10s",
        "--retry-period=2s",
        "--http-port=8080",
        "--log-level=debug",
        "--log-format=text",
        "--scrape-interval=2s",
        "--cluster-domain=corp.example",
        "--start-timeout=5m",
    ]


def test_the_pod_meets_the_restricted_standard(helm: str) -> None:
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


def test_two_replicas_are_replaced_one_by_one_on_different_nodes(helm: str) -> None:
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


def test_an_affinity_of_ones_own_replaces_the_charts(helm: str) -> None:
    own: Manifest = {"nodeAffinity": {}}
    pod = one(render(helm, f"affinity={json.dumps(own)}"), "Deployment")["spec"]["template"]["spec"]
    assert pod["affinity"] == own


def test_one_without_an_election_is_stopped_before_its_successor_starts(helm: str) -> None:
    manifests = render(helm, "leaderElection.enabled=false", "replicas=1")
    deployment = one(manifests, "Deployment")["spec"]
    assert deployment["strategy"] == {"type": "Recreate"}
    (container,) = deployment["template"]["spec"]["containers"]
    assert not [word for word in container["args"] if "lease" in word or "elect" in word]
    assert of_kind(manifests, "PodDisruptionBudget") == []


def test_the_charts_times_are_those_the_operator_takes(helm: str) -> None:
    (container,) = one(render(helm), "Deployment")["spec"]["template"]["spec"]["containers"]
    told = dict(word[2:].split("=") for word in container["args"] if "=" in word)
    names = {"duration": "lease-duration", "renew_deadline": "renew-deadline"}
    names["retry"] = "retry-period"
    assert (
        LeaseTimings(**{field: parse_duration(told[flag]) for field, flag in names.items()})
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
def test_the_image_is_named_by(helm: str, value: str, image: str) -> None:
    pod = one(render(helm, value), "Deployment")["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == image


def test_monitors_are_off_unless_asked_for(helm: str) -> None:
    kinds = {m["kind"] for m in render(helm)}
    assert not kinds & {"ServiceMonitor", "PodMonitor", "Namespace"}
    asked = render(
        helm, "serviceMonitor.create=true", 'podMonitor={"create":true,"labels":{"a":"b"}}'
    )
    assert one(asked, "ServiceMonitor")["spec"]["endpoints"][0]["path"] == "/metrics"
    assert one(asked, "PodMonitor")["metadata"]["labels"]["a"] == "b"


@pytest.mark.parametrize(
    ("value", "says"),
    {
        "an unknown value": ("replica=1", "replica"),
        "an unknown value within": ("image.name=1", "name"),
        "two operators without an election": (
            "leaderElection.enabled=false",
            "need leaderElection.enabled",
        ),
        "an election without a unit": ('leaderElection.retryPeriod="2"', "retryPeriod"),
        "a level that is none": ('logLevel="loud"', "logLevel"),
        "an unknown log format": ('logFormat="xml"', "logFormat"),
        "an interval without a unit": ('scrapeInterval="5"', "scrapeInterval"),
        "a namespace with a bad name": ('watchNamespaces=["Team"]', "watchNamespaces"),
        "a digest that is none": ('image.digest="latest"', "digest"),
        "an account without a name": ("serviceAccount.create=false", "serviceAccount.name must"),
        "a monitor without its service": (
            "serviceMonitor.create=true,service.create=false",
            "needs service.create",
        ),
    }.values(),
)
def test_wrong_values_are_refused(helm: str, value: str, says: str) -> None:
    words = [word for part in value.split(",") for word in ("--set-json", part)]
    done = run_helm(helm, "template", "trainyard", CHART, *words)
    assert done.returncode != 0
    assert says in done.stderr


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


def test_every_value_is_documented_where_it_stands() -> None:
    lines = (CHART / "values.yaml").read_text().splitlines()
    undocumented = [
        line
        for before, line in pairwise(lines)
        if re.match(r"(  )?\w+: \S", line) and not before.lstrip().startswith("#")
    ]
    assert undocumented == []


def test_schema_and_values_know_the_same_names() -> None:
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
