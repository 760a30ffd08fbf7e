"""The variants of a CRD and of a pod, and the order in which variants are measured."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks.barepod import bare_pod
from benchmarks.load import job_manifest
from benchmarks.objects.jobs import check_field_manager
from benchmarks.objects.measure import rotated
from benchmarks.objects.pods import PodTimes, render_pods
from benchmarks.objects.podspecs import BARE, OURS, pod_variants
from benchmarks.objects.schemas import AS_IT_IS, FAMILIES, crd_variants, family_of, without_rules
from benchmarks.observe import Event, KubeObject, Meta, Spec, Status
from benchmarks.rights import distributed_job_crd
from tools.localcluster.simulation import SIMULATED
from trainyard.api import names
from trainyard_trainer.contract.env import Role

Node = dict[str, Any]


def schema_of(crd: Node) -> Node:
    schema: Node = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


def rules_of(node: Any) -> list[str]:
    if isinstance(node, list):
        return [rule for value in node for rule in rules_of(value)]
    if not isinstance(node, dict):
        return []
    own = [rule["rule"] for rule in node.get("x-kubernetes-validations", [])]
    return own + [rule for value in node.values() for rule in rules_of(value)]


@pytest.fixture(scope="module")
def crd() -> Node:
    return distributed_job_crd()


def worker() -> Node:
    raw = job_manifest("a")
    raw["metadata"] |= {
        "namespace": "team",
        "uid": "1",
        "resourceVersion": "1",
        "creationTimestamp": "2026-01-01T00:00:00Z",
    }
    return render_pods(raw, Role.WORKER)[0]


def test_every_variant_of_the_crd_is_served_in_a_group_of_its_own(crd: Node) -> None:
    variants = crd_variants(crd)
    groups = {variant["spec"]["group"] for variant in variants.values()}
    assert len(groups) == len(variants)
    for variant in variants.values():
        assert variant["metadata"]["name"] == f"distributedjobs.{variant['spec']['group']}"
    assert schema_of(variants[AS_IT_IS]) == schema_of(crd)


def test_the_families_divide_all_rules_of_the_crd(crd: Node) -> None:
    schema, total = schema_of(crd), len(rules_of(crd))
    removed = [total - len(rules_of(without_rules(schema, family))) for family in FAMILIES]
    assert sum(removed) == total
    assert all(removed)
    assert rules_of(crd_variants(crd)["without CEL rules"]) == []


def test_rules_that_compare_with_the_old_object_are_a_family_wherever_they_are() -> None:
    assert family_of(("properties", "spec"), "oldSelf.hasValue()") == "transitions"
    assert family_of(("properties", "spec"), "self.min <= self.max") == "spec"


def test_a_property_called_description_is_no_description() -> None:
    properties = {"description": {"type": "string", "description": "A text."}}
    schema = {"type": "object", "description": "An object.", "properties": properties}
    crd = {"metadata": {}, "spec": {"names": {"plural": "things"}}}
    crd["spec"]["versions"] = [{"schema": {"openAPIV3Schema": schema}}]  # type: ignore[assignment]
    assert schema_of(crd_variants(crd)["without descriptions"]) == {
        "type": "object",
        "properties": {"description": {"type": "string"}},
    }


def test_each_variant_of_a_pod_differs_from_ours_and_still_runs_on_simulated_nodes() -> None:
    pod = worker()
    variants = {name: edit(pod) for name, edit in pod_variants(pod).items()}
    assert variants.pop(OURS) == pod == worker()
    texts = [json.dumps(variant, sort_keys=True) for variant in variants.values()]
    assert len({*texts, json.dumps(pod, sort_keys=True)}) == len(texts) + 1
    for variant in variants.values():
        assert SIMULATED in [t["key"] for t in variant["spec"]["tolerations"]]


def test_a_mount_goes_with_its_volume() -> None:
    pod = worker()
    variant = pod_variants(pod)["without volume trainyard-tls"](pod)
    (container,) = variant["spec"]["containers"]
    assert "trainyard-tls" not in [mount["name"] for mount in container["volumeMounts"]]
    assert "trainyard-tls" not in [volume["name"] for volume in variant["spec"]["volumes"]]


def test_a_bare_pod_keeps_its_identity_and_its_gpus() -> None:
    pod = worker()
    bare = pod_variants(pod)[BARE](pod)
    assert bare == bare_pod(pod)
    assert bare["metadata"] == pod["metadata"]
    assert bare["spec"].keys() == {"restartPolicy", "containers", "tolerations"}
    resources = bare["spec"]["containers"][0]["resources"]
    assert resources == pod["spec"]["containers"][0]["resources"]


def test_each_iteration_begins_with_another_variant_and_has_all() -> None:
    variants = ["a", "b", "c", "d"]
    orders = [rotated(variants, iteration, 4) for iteration in range(4)]
    assert orders[0] == variants
    assert [order[0] for order in orders] == variants
    assert all(sorted(order) == variants for order in orders)


def test_pods_are_timed_from_when_the_last_one_exists() -> None:
    times = PodTimes(began=1.0)
    for at, name, node, phase in (
        (2.0, "a", "", "Pending"),
        (3.0, "a", "n", "Pending"),
        (4.0, "b", "", "Pending"),
        (5.0, "b", "n", "Pending"),
        (5.5, "a", "n", "Running"),
        (9.0, "b", "n", "Running"),
    ):
        pod = KubeObject(
            metadata=Meta(name=name), spec=Spec(node_name=node), status=Status(phase=phase)
        )
        times.note(Event(type="MODIFIED", object=pod), at)
    assert times.seconds() == {"created s": 3.0, "bound s": 1.0, "running s": 5.0}


def test_a_status_of_another_field_manager_is_refused() -> None:
    entry = {"manager": names.FIELD_MANAGER, "subresource": "status"}
    check_field_manager({"metadata": {"managedFields": [entry]}})
    with pytest.raises(RuntimeError, match="somebody"):
        check_field_manager({"metadata": {"managedFields": [{**entry, "manager": "somebody"}]}})
