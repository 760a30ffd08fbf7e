"""Decoding of JSON objects, with errors that name the field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def parse_object(text: str, what: str) -> Mapping[str, Any]:
    """The JSON object in `text`; raises ValueError that says `what` it should be."""
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"{what} must be a JSON object, got {type(value).__name__}")
    return value


def build(cls: type[T], values: Mapping[str, Any]) -> T:
    """A `cls` of these fields; raises ValueError that names an unknown or a missing one."""
    try:
        return cls(**values)
    except TypeError as error:
        raise ValueError(f"{cls.__name__}: {error}") from None
