"""Validation of a value by a structural schema, as the API server does it."""

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


def errors(schema: Mapping[str, Any], value: Any, path: str = "status") -> Iterator[str]:
    """The errors of the value; unknown fields are errors, as the API server would drop them."""
    expected = TYPES[schema["type"]]
    if not isinstance(value, expected) or (isinstance(value, bool) and bool not in expected):
        yield f"{path}: {value!r} is not of type {schema['type']}"
        return
    for name, is_valid in RULES:
        if name in schema and not is_valid(value, schema[name]):
            yield f"{path}: {value!r} violates {name} {schema[name]}"
    yield from _format_errors(schema.get("format", ""), value, path)
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from errors(schema["items"], item, f"{path}[{index}]")
    if isinstance(value, dict):
        yield from _object_errors(schema, value, path)


def _format_errors(format_: str, value: Any, path: str) -> Iterator[str]:
    if format_ in FORMATS and not FORMATS[format_][0] <= value <= FORMATS[format_][1]:
        yield f"{path}: {value} is not an {format_}"
    if format_ == "date-time":
        try:
            datetime.fromisoformat(value)
        except ValueError:
            yield f"{path}: {value!r} is not a date-time"
    if isinstance(value, float) and (value != value or abs(value) == float("inf")):
        yield f"{path}: {value} cannot be encoded as JSON"


def _object_errors(schema: Mapping[str, Any], value: Mapping[str, Any], path: str) -> Iterator[str]:
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{path}.{name} is required"
    for name, item in value.items():
        child = schema.get("properties", {}).get(name) or schema.get("additionalProperties")
        if isinstance(child, Mapping):
            yield from errors(child, item, f"{path}.{name}")
        elif not schema.get("x-kubernetes-preserve-unknown-fields"):
            yield f"{path}.{name} is unknown"
