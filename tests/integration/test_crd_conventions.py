"""Both CRDs follow the Kubernetes API conventions.

https://github.com/kubernetes/community/blob/main/contributors/devel/sig-architecture/api-conventions.md

Where a convention has exceptions, they are listed by field with their reasons;
docs/decisions/0036-api-conventions.md explains them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import pytest

from tests.integration.crd_cases import KINDS, Field, Kind, fields_of

Schema = dict[str, Any]

KUBERNETES: Final = re.compile(r"\.template\.|tolerations\[\]|\.resources\.")
"""Fields below these are copied from Kubernetes' own types."""
ACRONYM: Final = re.compile(r"[a-z](Api|Cpu|Dns|Gpu|Http|Id|Ip|Json|Pem|Tls|Uid|Url)(?![a-z])")


class Convention(NamedTuple):
    """A rule: which fields violate it, an example of one, and the exceptions by field."""

    is_violated: Callable[[Field], bool]
    counterexample: Schema
    exceptions: Mapping[str, str] = MappingProxyType({})


def is_type(field: Field, name: str) -> bool:
    return field.schema.get("type") == name


def is_in_spec(field: Field) -> bool:
    return field.path.startswith(".spec.")


def is_string_duration(field: Field) -> bool:
    rules = field.schema.get("x-kubernetes-validations", [])
    return any("duration(self)" in rule["rule"] for rule in rules)


def has_odd_seconds(field: Field) -> bool:
    """Seconds are whole numbers in the spec, and numbers in the status."""
    number = "integer" if is_in_spec(field) else "number"
    return field.name.endswith("Seconds") and not is_type(field, number)


def has_odd_time(field: Field) -> bool:
    """A time is called fooTime, and nothing else is."""
    is_time = is_type(field, "string") and field.schema.get("format") == "date-time"
    return is_time != field.name.endswith("Time")


def has_odd_enum(field: Field) -> bool:
    values = [value for value in field.schema.get("enum", []) if value != ""]
    return not all(
        isinstance(value, str) and re.fullmatch(r"[A-Z][A-Za-z0-9]*", value) for value in values
    )


def items_of(field: Field) -> Schema | None:
    """Return the schema of the items if the field is a list of objects."""
    items: Schema | None = field.schema.get("items") if is_type(field, "array") else None
    return items if items is not None and items.get("type") == "object" else None


def is_list_without_keys(field: Field) -> bool:
    return items_of(field) is not None and field.schema.get("x-kubernetes-list-type") != "map"


def has_optional_keys(field: Field) -> bool:
    keys = set(field.schema.get("x-kubernetes-list-map-keys", ()))
    return not keys <= set((items_of(field) or {}).get("required", ()))


def is_map_of_objects(field: Field) -> bool:
    values = field.schema.get("additionalProperties")
    return isinstance(values, dict) and values.get("type") in ("object", "array")


def hides_its_absence(field: Field) -> bool:
    """An optional field of the spec without a default describes the effect of its absence."""
    if not is_in_spec(field) or KUBERNETES.search(field.path):
        return False
    text = field.schema.get("description", "")
    is_optional = not field.is_required and "default" not in field.schema
    return is_optional and re.search(r"\b(?:Absent|Default)\b", text) is None


CONVENTIONS: Final[dict[str, Convention]] = {
    "names are camelCase": Convention(
        lambda f: f.name != "" and re.fullmatch(r"[a-z][A-Za-z0-9]*", f.name) is None,
        {"batch_size": {"type": "integer", "format": "int32"}},
    ),
    "acronyms keep one case": Convention(
        lambda f: ACRONYM.search(f.name) is not None, {"podUid": {"type": "string"}}
    ),
    "properties are not called is or has": Convention(
        lambda f: re.match(r"(?:is|has|can|should)[A-Z]", f.name) is not None,
        {"isExternal": {"type": "string"}},
    ),
    "booleans have no third state": Convention(
        lambda f: is_type(f, "boolean"),
        {"verbose": {"type": "boolean"}},
        {
            "suspend": "of batch/v1 Job; other controllers set it",
            "external": "a party has a pod in this cluster or it has none",
            "maskWeights": "a number is masked or it is not",
            "replaceStragglers": "a straggler is replaced or it is not",
            "enabled": "an adjustment may act or it may not",
            "amplification": "it is counted on or it is not",
            "readOnly": "of Kubernetes' volumes",
            "optional": "of Kubernetes' volumes and environment variables",
        },
    ),
    "the spec has no floats": Convention(
        lambda f: is_in_spec(f) and is_type(f, "number"),
        {"share": {"type": "number"}},
        {
            "value": "target of a metric",
            "weight": "factor of a speed-up",
            "minGain": "ratio of throughputs",
            "min": "bound of an adjusted hyperparameter",
            "max": "bound of an adjusted hyperparameter",
            "lr": "hyperparameter",
            "fraction": "hyperparameter, the C of FedAvg",
            "maxWeight": "hyperparameter",
            "maxNorm": "hyperparameter",
            "clipNorm": "hyperparameter",
            "clip": "hyperparameter",
            "epsilon": "of differential privacy",
            "delta": "of differential privacy",
        },
    ),
    "integers have a size": Convention(
        lambda f: is_type(f, "integer") and f.schema.get("format") not in ("int32", "int64"),
        {"count": {"type": "integer"}},
    ),
    "enums are CamelCase strings": Convention(
        has_odd_enum, {"mode": {"type": "string", "enum": ["Apply", "recommend-only"]}}
    ),
    "enums have no empty value": Convention(
        lambda f: "" in f.schema.get("enum", []),
        {"mode": {"type": "string", "enum": ["", "Apply"]}},
        {"effect": "of Kubernetes' tolerations", "medium": "of Kubernetes' volumes"},
    ),
    "seconds are numbers": Convention(has_odd_seconds, {"timeoutSeconds": {"type": "string"}}),
    "durations are seconds": Convention(
        is_string_duration,
        {
            "timeout": {
                "type": "string",
                "x-kubernetes-validations": [{"rule": "duration(self) >= duration('1s')"}],
            }
        },
        {
            "cooldown": "a string such as 2m, as in the Gateway API",
            "interval": "a string such as 2m, as in the Gateway API",
            "deadline": "a string such as 2m, as in the Gateway API",
        },
    ),
    "times are called fooTime": Convention(
        has_odd_time, {"decidedAt": {"type": "string", "format": "date-time"}}
    ),
    "lists have a type": Convention(
        lambda f: is_type(f, "array") and "x-kubernetes-list-type" not in f.schema,
        {"names": {"type": "array"}},
    ),
    "lists have plural names": Convention(
        lambda f: is_type(f, "array") and not f.name.endswith("s"),
        {"party": {"type": "array"}},
        {
            "allowed": "an adjective, like its siblings min and max",
            "history": "a collective noun",
            "profile": "a collective noun",
            "env": "of Kubernetes' containers",
            "requiredDuringSchedulingIgnoredDuringExecution": "of Kubernetes' affinity",
            "preferredDuringSchedulingIgnoredDuringExecution": "of Kubernetes' affinity",
        },
    ),
    "lists of objects are merged by key": Convention(
        is_list_without_keys,
        {"parties": {"type": "array", "items": {"type": "object"}}},
        {
            "rules": "the first match applies, so that their order matters",
            "podConditions": "of batch/v1 Job",
            "failures": "a log, always written as a whole",
            "history": "a log, always written as a whole",
            "adjustments": "in the status, a log",
            "profile": "always written as a whole",
            "tolerations": "of Kubernetes' pods",
            "items": "of Kubernetes' volumes",
            "nodeSelectorTerms": "of Kubernetes' affinity",
            "matchExpressions": "of Kubernetes' selectors",
            "matchFields": "of Kubernetes' selectors",
            "requiredDuringSchedulingIgnoredDuringExecution": "of Kubernetes' affinity",
            "preferredDuringSchedulingIgnoredDuringExecution": "of Kubernetes' affinity",
        },
    ),
    "keys of lists are required": Convention(
        has_optional_keys,
        {
            "parties": {
                "type": "array",
                "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "properties": {"name": {"type": "string"}}},
            }
        },
    ),
    "named objects are lists, not maps": Convention(
        is_map_of_objects,
        {"candidates": {"type": "object", "additionalProperties": {"type": "object"}}},
        {"adjustments": "a rule has no identity but its name"},
    ),
    "objects have a schema": Convention(
        lambda f: f.schema.get("x-kubernetes-preserve-unknown-fields", False),
        {"settings": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
        {
            "args": "keyword arguments of the user's code, an optimizer or a strategy",
            "selection": "in the status, written by a later version",
            "adjustments[]": "in the status, written by a later version",
        },
    ),
    "optional fields describe their absence": Convention(
        hides_its_absence, {"path": {"type": "string", "description": "A path."}}
    ),
}
"""Conventions by description."""


def key_of(field: Field) -> str:
    """Return the name by which exceptions are listed."""
    return field.path.rpartition(".")[2]


def violations(schema: Schema, convention: Convention) -> list[Field]:
    return [field for field in fields_of(schema) if convention.is_violated(field)]


@pytest.mark.parametrize("convention", CONVENTIONS.values(), ids=CONVENTIONS)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.plural)
def test_the_crds_follow_the_convention(kind: Kind, convention: Convention) -> None:
    violating = violations(kind.schema, convention)
    assert [f.path for f in violating if key_of(f) not in convention.exceptions] == []


@pytest.mark.parametrize("convention", CONVENTIONS.values(), ids=CONVENTIONS)
def test_every_exception_is_needed(convention: Convention) -> None:
    violating = {key_of(f) for kind in KINDS for f in violations(kind.schema, convention)}
    assert set(convention.exceptions) - violating == set()


@pytest.mark.parametrize("convention", CONVENTIONS.values(), ids=CONVENTIONS)
def test_every_convention_finds_its_counterexample(convention: Convention) -> None:
    schema = {"properties": {"spec": {"type": "object", "properties": convention.counterexample}}}
    violating = [field.path for field in violations(schema, convention)]
    assert violating == [f".spec.{name}" for name in convention.counterexample]
