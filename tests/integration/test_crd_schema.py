"""The CRDs as documents: limits, descriptions, and agreement with the operator's structs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import msgspec
import pytest

from tests.integration.crd_cases import DISTRIBUTED, FEDERATED, KINDS, Kind, fields_of
from trainyard.api.federation import FederatedJobSpec, FederatedJobStatus
from trainyard.api.spec import DistributedJobSpec
from trainyard.api.status import DistributedJobStatus

Schema = dict[str, Any]


ALL = {kind.plural: {f.path: f.schema for f in fields_of(kind.schema)} for kind in KINDS}
"""The schema of every field by path, by kind."""
BOTH = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.plural)


def part(kind: Kind, name: str) -> dict[str, Schema]:
    """Return the fields whose path starts with `name`."""
    return {path: schema for path, schema in ALL[kind.plural].items() if path.startswith(name)}


def is_limited(schema: Schema) -> bool:
    """Whether the schema bounds the size of a value."""
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
    unlimited = [
        path
        for path, schema in part(kind, ".status").items()
        if schema.get("type") in ("string", "array") and not is_limited(schema)
    ]
    assert unlimited == []


@BOTH
def test_every_field_has_a_description(kind: Kind) -> None:
    named = {path: schema for path, schema in part(kind, "").items() if path[-1] not in "]}"}
    undescribed = [
        path
        for path, schema in named.items()
        if "description" not in schema and not path.startswith(".metadata")
    ]
    # Some parts of Kubernetes' affinity types need none.
    assert [path for path in undescribed if "affinity" not in path] == []


@BOTH
def test_every_default_is_in_the_description(kind: Kind) -> None:
    missing = [
        path
        for path, schema in part(kind, ".spec").items()
        if schema.get("default", {}) != {}
        and f"Default {schema['default']}.".lower() not in schema["description"].lower()
    ]
    assert missing == []


@BOTH
def test_every_rule_has_a_message(kind: Kind) -> None:
    rules = [
        (path, rule)
        for path, schema in {"": kind.schema, **part(kind, "")}.items()
        for rule in schema.get("x-kubernetes-validations", [])
    ]
    assert len(rules) > 40
    assert [path for path, rule in rules if not rule.get("message")] == []


def struct_of(annotation: Any) -> type[msgspec.Struct] | None:
    """Return the struct in `X`, `X | None` or `list[X]`."""
    for part in (annotation, *get_args(annotation)):
        if isinstance(part, type) and issubclass(part, msgspec.Struct):
            return part
    return None


def differences(struct: type[msgspec.Struct], schema: Schema, path: str) -> Iterator[str]:
    """Yield the fields that only one of struct and schema has."""
    known = {field.encode_name: field for field in msgspec.structs.fields(struct)}
    properties = schema["properties"]
    yield from (f"{path}.{name}" for name in sorted(known.keys() ^ properties.keys()))
    for name in known.keys() & properties.keys():
        inner = struct_of(known[name].type)
        child = properties[name].get("items", properties[name])
        if inner is not None and "properties" in child:
            yield from differences(inner, child, f"{path}.{name}")


LATER = {".status.selection", ".status.adjustments"}
"""Fields that this version does not write."""


@pytest.mark.parametrize(
    ("struct", "kind", "name"),
    [
        pytest.param(DistributedJobSpec, DISTRIBUTED, "spec", id="distributed spec"),
        pytest.param(DistributedJobStatus, DISTRIBUTED, "status", id="distributed status"),
        pytest.param(FederatedJobSpec, FEDERATED, "spec", id="federated spec"),
        pytest.param(FederatedJobStatus, FEDERATED, "status", id="federated status"),
    ],
)
def test_the_operators_structs_have_the_fields_of_the_schema(
    struct: type[msgspec.Struct], kind: Kind, name: str
) -> None:
    actual = set(differences(struct, kind.schema["properties"][name], f".{name}"))
    assert actual - LATER == set()


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
    defaults = decoded(msgspec.convert(bare, struct))
    assert disagreements(defaults, kind.schema["properties"]["spec"], "spec") == []


def test_the_operators_defaults_of_a_party_are_those_of_the_schema() -> None:
    item = FEDERATED.schema["properties"]["spec"]["properties"]["parties"]["items"]
    bare = {"task": {"entrypoint": "a.b:C"}, "image": "i", "parties": [{"name": "a"}]}
    defaults = decoded(msgspec.convert(bare, FederatedJobSpec))
    assert disagreements(defaults["parties"][0], item, "party") == []


def decoded(spec: msgspec.Struct) -> dict[str, Any]:
    """The spec as JSON has it; arguments are kept encoded."""
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(spec))
    return found


def disagreements(value: Any, schema: Schema, path: str) -> list[str]:
    """Return the fields whose default in the schema differs from the operator's."""
    errors = []
    for name, child in schema["properties"].items():
        default = value.get(name)
        if child.get("default", {}) != {} and default != child["default"]:
            errors.append(f"{path}.{name}: {default!r}, not {child['default']!r}")
        if isinstance(default, dict) and "properties" in child and "default" in child:
            errors += disagreements(default, child, f"{path}.{name}")
    return errors


SHARED = {
    "spec": (
        *("task", "image", "code", "adjustments", "state", "failure", "coordinator", "suspend"),
        *("priorityClassName", "activeDeadlineSeconds", "ttlSecondsAfterFinished", "managedBy"),
    ),
    "status": (
        *("observedGeneration", "conditions", "term", "restarts", "planGeneration", "startTime"),
        *("completionTime", "failures", "adjustments", "image"),
    ),
}
"""Fields that are identical in both kinds."""


@pytest.mark.parametrize(
    ("name", "field"), [(name, field) for name, listed in SHARED.items() for field in listed]
)
def test_shared_fields_are_identical_in_both_kinds(name: str, field: str) -> None:
    ours, theirs = (kind.schema["properties"][name]["properties"][field] for kind in KINDS)
    assert ours == theirs


def test_no_other_fields_are_shared() -> None:
    for name, shared in SHARED.items():
        ours, theirs = (set(kind.schema["properties"][name]["properties"]) for kind in KINDS)
        assert ours & theirs - set(shared) <= {"training", "phase"}


def without_texts(schema: Any) -> Any:
    """Return a schema without its texts, which name workers or parties."""
    if isinstance(schema, list):
        return [without_texts(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    texts = ("description", "message", "messageExpression")
    return {
        name: without_texts(child)
        for name, child in schema.items()
        if name not in texts or not isinstance(child, str)
    }


def test_the_pod_settings_of_both_kinds_have_the_same_schema() -> None:
    spec = {kind.plural: kind.schema["properties"]["spec"]["properties"] for kind in KINDS}
    workers = spec["distributedjobs"]["workers"]["properties"]
    party = spec["federatedjobs"]["parties"]["items"]["properties"]
    template = spec["federatedjobs"]["template"]
    assert without_texts(template) == without_texts(workers["template"])
    assert without_texts(party["resources"]) == without_texts(workers["resources"])
    for own in ("nodeSelector", "tolerations"):
        assert without_texts(party[own]) == without_texts(template["properties"][own])


def test_the_target_is_identical_in_both_kinds() -> None:
    targets = [
        kind.schema["properties"]["spec"]["properties"]["training"]["properties"]["target"]
        for kind in KINDS
    ]
    assert targets[0] == targets[1]
