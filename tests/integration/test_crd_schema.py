"""The CRDs as texts: limits on every input, words on every field, and one meaning on both sides."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import msgspec
import pytest

from tests.integration.crd_cases import SCHEMA as ROOT
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


ALL = dict(fields(ROOT))
SPEC = {path: schema for path, schema in ALL.items() if path.startswith(".spec")}


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


def test_every_input_has_a_limit() -> None:
    assert [path for path, schema in SPEC.items() if not is_limited(schema)] == []


def test_every_string_and_list_of_the_status_has_a_limit() -> None:
    open_ended = [
        path
        for path, schema in ALL.items()
        if path.startswith(".status")
        and schema.get("type") in ("string", "array")
        and not is_limited(schema)
    ]
    assert open_ended == []


def test_every_field_of_the_spec_is_described() -> None:
    named = {path: schema for path, schema in ALL.items() if path[-1] not in "]}"}
    silent = [
        path
        for path, schema in named.items()
        if "description" not in schema and not path.startswith(".metadata")
    ]
    # Parts of Kubernetes' own types whose name says all.
    assert [path for path in silent if "affinity" not in path] == []


def test_every_default_is_told_in_the_description() -> None:
    untold = [
        path
        for path, schema in SPEC.items()
        if schema.get("default", {}) != {}
        and f"Default {schema['default']}.".lower() not in schema["description"].lower()
    ]
    assert untold == []


def test_every_rule_speaks() -> None:
    rules = [
        (path, rule)
        for path, schema in {"": ROOT, **ALL}.items()
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
    ("struct", "part"),
    [(DistributedJobSpec, "spec"), (DistributedJobStatus, "status")],
    ids=["spec", "status"],
)
def test_the_operator_knows_the_very_fields_of_the_schema(
    struct: type[msgspec.Struct], part: str
) -> None:
    found = set(differences(struct, ROOT["properties"][part], f".{part}"))
    assert found - LATER == set()


def test_the_operators_defaults_are_those_of_the_schema() -> None:
    bare = {"task": {"use": "a.b:C"}, "image": "i"}
    ours = msgspec.to_builtins(msgspec.convert(bare, DistributedJobSpec))
    assert disagreements(ours, ROOT["properties"]["spec"], "spec") == []


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
