"""The CRDs as texts: limits on every input, words on every field, and one meaning on both sides."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import msgspec
import pytest

from tests.integration.crd_cases import DISTRIBUTED, FEDERATED, KINDS, Kind
from trainyard.api.federation import FederatedJobSpec, FederatedJobStatus
from trainyard.api.spec import DistributedJobSpec
from trainyard.api.status import DistributedJobStatus

Schema = dict[str, Any]


def fields(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    """Every schema below this one, with its path."""
    for name, child in schema.get("properties", {}).items():
        yield f"{path}.{name}", child
        yield from fields(child, f"{path}.{name}")
    for part, mark in (("items", "[]"), ("additionalProperties", "{}")):
        if isinstance(child := schema.get(part), dict):
            yield f"{path}{mark}", child
            yield from fields(child, f"{path}{mark}")


ALL = {kind.plural: dict(fields(kind.schema)) for kind in KINDS}
"""Every field by its path, by kind."""
BOTH = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.plural)


def part(kind: Kind, name: str) -> dict[str, Schema]:
    """The fields of spec or status."""
    return {path: schema for path, schema in ALL[kind.plural].items() if path.startswith(name)}


def is_limited(schema: Schema) -> bool:
    """Whether nobody can send a value of any size."""
    match schema.get("type"):
        case "string":
            return bool({"maxLength", "enum", "format"} & set(schema))
        case "array":
            return "maxItems" in schema
        case "integer":
            return {"minimum", "maximum"} <= set(schema) or "x-kubernetes-validations" in schema
        case "object" if (
            "additionalProperties" in schema or "x-kubernetes-preserve-unknown-fields" in schema
        ):
            return "maxProperties" in schema
        case None:
            return "maxLength" in schema
    return True


@BOTH
def test_every_input_has_a_limit(kind: Kind) -> None:
    assert [path for path, schema in part(kind, ".spec").items() if not is_limited(schema)] == []


@BOTH
def test_every_string_and_list_of_the_status_has_a_limit(kind: Kind) -> None:
    open_ended = [
        path
        for path, schema in part(kind, ".status").items()
        if schema.get("type") in ("string", "array") and not is_limited(schema)
    ]
    assert open_ended == []


@BOTH
def test_every_field_of_the_spec_is_described(kind: Kind) -> None:
    named = {path: schema for path, schema in part(kind, "").items() if path[-1] not in "]}"}
    silent = [
        path
        for path, schema in named.items()
        if "description" not in schema and not path.startswith(".metadata")
    ]
    # Parts of Kubernetes' own types whose name says all.
    assert [path for path in silent if "affinity" not in path] == []


@BOTH
def test_every_default_is_told_in_the_description(kind: Kind) -> None:
    untold = [
        path
        for path, schema in part(kind, ".spec").items()
        if schema.get("default", {}) != {}
        and f"Default {schema['default']}.".lower() not in schema["description"].lower()
    ]
    assert untold == []


@BOTH
def test_every_rule_speaks(kind: Kind) -> None:
    rules = [
        (path, rule)
        for path, schema in {"": kind.schema, **part(kind, "")}.items()
        for rule in schema.get("x-kubernetes-validations", [])
    ]
    assert len(rules) > 40
    assert [path for path, rule in rules if not rule.get("message")] == []


def struct_of(annotation: Any) -> type[msgspec.Struct] | None:
    """The struct in `X`, `X | None` or `list[X]`."""
    for part in (annotation, *get_args(annotation)):
        if isinstance(part, type) and issubclass(part, msgspec.Struct):
            return part
    return None


def differences(struct: type[msgspec.Struct], schema: Schema, path: str) -> Iterator[str]:
    """Where a struct and a schema do not have the same fields."""
    known = {field.encode_name: field for field in msgspec.structs.fields(struct)}
    properties = schema["properties"]
    yield from (f"{path}.{name}" for name in sorted(known.keys() ^ properties.keys()))
    for name in known.keys() & properties.keys():
        inner = struct_of(known[name].type)
        child = properties[name].get("items", properties[name])
        if inner is not None and "properties" in child:
            yield from differences(inner, child, f"{path}.{name}")


LATER = {".status.selection", ".status.adjustments"}
"""Written by later versions."""


@pytest.mark.parametrize(
    ("struct", "kind", "name"),
    [
        pytest.param(DistributedJobSpec, DISTRIBUTED, "spec", id="distributed spec"),
        pytest.param(DistributedJobStatus, DISTRIBUTED, "status", id="distributed status"),
        pytest.param(FederatedJobSpec, FEDERATED, "spec", id="federated spec"),
        pytest.param(FederatedJobStatus, FEDERATED, "status", id="federated status"),
    ],
)
def test_the_operator_knows_the_very_fields_of_the_schema(
    struct: type[msgspec.Struct], kind: Kind, name: str
) -> None:
    found = set(differences(struct, kind.schema["properties"][name], f".{name}"))
    assert found - LATER == set()


@pytest.mark.parametrize(
    ("struct", "kind", "more"),
    [
        pytest.param(DistributedJobSpec, DISTRIBUTED, {}, id="distributed"),
        pytest.param(FederatedJobSpec, FEDERATED, {"parties": []}, id="federated"),
    ],
)
def test_the_operators_defaults_are_those_of_the_schema(
    struct: type[msgspec.Struct], kind: Kind, more: dict[str, Any]
) -> None:
    bare = {"task": {"entrypoint": "a.b:C"}, "image": "i", **more}
    ours = msgspec.to_builtins(msgspec.convert(bare, struct))
    assert disagreements(ours, kind.schema["properties"]["spec"], "spec") == []


def test_the_operators_defaults_of_a_party_are_those_of_the_schema() -> None:
    item = FEDERATED.schema["properties"]["spec"]["properties"]["parties"]["items"]
    bare = {"task": {"entrypoint": "a.b:C"}, "image": "i", "parties": [{"name": "a"}]}
    ours = msgspec.to_builtins(msgspec.convert(bare, FederatedJobSpec))
    assert disagreements(ours["parties"][0], item, "party") == []


def disagreements(value: Any, schema: Schema, path: str) -> list[str]:
    """Paths whose default in the schema is not what the operator assumes."""
    found = []
    for name, child in schema["properties"].items():
        here = value.get(name)
        if child.get("default", {}) != {} and here != child["default"]:
            found.append(f"{path}.{name}: {here!r}, not {child['default']!r}")
        if isinstance(here, dict) and "properties" in child and "default" in child:
            found += disagreements(here, child, f"{path}.{name}")
    return found


SHARED = {
    "spec": (
        *("task", "image", "adjustments", "state", "failure", "coordinator", "suspend"),
        *("priorityClassName", "activeDeadlineSeconds", "ttlSecondsAfterFinished", "managedBy"),
    ),
    "status": (
        *("observedGeneration", "conditions", "term", "restarts", "planGeneration", "startTime"),
        *("completionTime", "failures", "adjustments"),
    ),
}
"""What both kinds have, in the same words."""


@pytest.mark.parametrize(
    ("name", "field"), [(name, field) for name, listed in SHARED.items() for field in listed]
)
def test_what_both_kinds_share_is_the_same(name: str, field: str) -> None:
    ours, theirs = (kind.schema["properties"][name]["properties"][field] for kind in KINDS)
    assert ours == theirs


def test_nothing_is_shared_by_accident() -> None:
    for name, shared in SHARED.items():
        ours, theirs = (set(kind.schema["properties"][name]["properties"]) for kind in KINDS)
        assert ours & theirs - set(shared) <= {"training", "phase"}


def skeleton(schema: Any) -> Any:
    """A schema without its words, which speak of workers or of parties."""
    if isinstance(schema, list):
        return [skeleton(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    words = ("description", "message", "messageExpression")
    return {
        name: skeleton(child)
        for name, child in schema.items()
        if name not in words or not isinstance(child, str)
    }


def test_both_kinds_let_pods_have_the_same() -> None:
    spec = {kind.plural: kind.schema["properties"]["spec"]["properties"] for kind in KINDS}
    workers = spec["distributedjobs"]["workers"]["properties"]
    party = spec["federatedjobs"]["parties"]["items"]["properties"]
    template = spec["federatedjobs"]["template"]
    assert skeleton(template) == skeleton(workers["template"])
    assert skeleton(party["resources"]) == skeleton(workers["resources"])
    for own in ("nodeSelector", "tolerations"):
        assert skeleton(party[own]) == skeleton(template["properties"][own])


def test_a_target_is_the_same_for_both() -> None:
    targets = [
        kind.schema["properties"]["spec"]["properties"]["training"]["properties"]["target"]
        for kind in KINDS
    ]
    assert targets[0] == targets[1]
