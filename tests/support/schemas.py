"""What is wrong with a value by a structural schema, as the API server would say it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

CRD = Path(__file__).parents[2] / "crds" / "distributedjobs.trainyard.dev.yaml"
TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}
FORMATS = {"int32": (-(2**31), 2**31 - 1), "int64": (-(2**63), 2**63 - 1)}
RULES = (
    ("enum", lambda value, enum: value in enum),
    ("pattern", lambda value, pattern: re.search(pattern, value) is not None),
    ("minLength", lambda value, least: len(value) >= least),
    ("maxLength", lambda value, most: len(value) <= most),
    ("maxItems", lambda value, most: len(value) <= most),
    ("maxProperties", lambda value, most: len(value) <= most),
    ("minimum", lambda value, least: value >= least),
    ("maximum", lambda value, most: value <= most),
)


def status_schema() -> dict[str, Any]:
    """The schema of a DistributedJob's status."""
    crd = yaml.safe_load(CRD.read_text())
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
    assert isinstance(schema, dict)
    return schema


def faults(schema: Mapping[str, Any], value: Any, path: str = "status") -> Iterator[str]:
    """Every way in which the value breaks the schema; unknown fields count, being dropped."""
    expected = TYPES[schema["type"]]
    if not isinstance(value, expected) or (isinstance(value, bool) and bool not in expected):
        yield f"{path}: {value!r} is not of type {schema['type']}"
        return
    for name, holds in RULES:
        if name in schema and not holds(value, schema[name]):
            yield f"{path}: {value!r} breaks {name} {schema[name]}"
    yield from _format_faults(schema.get("format", ""), value, path)
    if isinstance(value, list):
        for place, item in enumerate(value):
            yield from faults(schema["items"], item, f"{path}[{place}]")
    if isinstance(value, dict):
        yield from _object_faults(schema, value, path)


def _format_faults(format_: str, value: Any, path: str) -> Iterator[str]:
    if format_ in FORMATS and not FORMATS[format_][0] <= value <= FORMATS[format_][1]:
        yield f"{path}: {value} is no {format_}"
    if format_ == "date-time":
        try:
            datetime.fromisoformat(value)
        except ValueError:
            yield f"{path}: {value!r} is no date-time"
    if isinstance(value, float) and (value != value or abs(value) == float("inf")):
        yield f"{path}: {value} has no JSON"


def _object_faults(schema: Mapping[str, Any], value: Mapping[str, Any], path: str) -> Iterator[str]:
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{path}.{name} is required"
    for name, item in value.items():
        child = schema.get("properties", {}).get(name) or schema.get("additionalProperties")
        if isinstance(child, Mapping):
            yield from faults(child, item, f"{path}.{name}")
        elif not schema.get("x-kubernetes-preserve-unknown-fields"):
            yield f"{path}.{name} is unknown"
