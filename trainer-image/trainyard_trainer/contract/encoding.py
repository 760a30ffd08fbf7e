"""JSON of Plans and configurations: defaults are left out, unknown fields are ignored.

An optional field therefore needs no new wire version; `env.WIRE_VERSION` says what does.
"""

from __future__ import annotations

import json
import math
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from trainyard_trainer.contract.env import WIRE_VERSION

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Header:
    wire: int | None = None


def encode(message: DataclassInstance) -> str:
    """The message as a JSON object."""
    return json.dumps(_to_object(message), sort_keys=True)


def encode_versioned(message: DataclassInstance) -> str:
    """The message as a JSON object with the wire version in it."""
    return json.dumps({"wire": WIRE_VERSION, **_to_object(message)}, sort_keys=True)


def decode(text: str, cls: type[T], what: str) -> T:
    """A `cls` from its JSON; raises ValueError that names a missing or ill-typed field."""
    return _convert(json.loads(text), cls, what)


def decode_versioned(text: str, cls: type[T], what: str) -> T:
    """As `decode`; raises ValueError also for another wire version, whatever the fields are."""
    values = json.loads(text)
    wire = _convert(values, _Header, what).wire
    if wire != WIRE_VERSION:
        raise ValueError(f"{what} has wire version {wire}, this trainer speaks {WIRE_VERSION}")
    return _convert(values, cls, what)


def finite(value: Any) -> Any:
    """A JSON document with None in place of figures that JSON does not have: NaN and infinities."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {name: finite(item) for name, item in value.items()}
        case list() | tuple():
            return [finite(item) for item in value]
        case _:
            return value


def _convert(values: Any, cls: type[T], what: str) -> T:
    try:
        return msgspec.convert(values, cls)
    except msgspec.ValidationError as error:
        raise ValueError(f"invalid {what}: {error}") from None


def _to_object(message: DataclassInstance) -> dict[str, Any]:
    """The fields that differ from their defaults."""
    values = [(field, getattr(message, field.name)) for field in fields(message)]
    return {field.name: _to_json(value) for field, value in values if value != _default(field)}


def _to_json(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return _to_object(value)
    return [_to_json(item) for item in value] if isinstance(value, tuple) else value


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()
