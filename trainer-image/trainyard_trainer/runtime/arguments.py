"""Arguments of a Task as its constructor's annotations want them.

JSON has one kind of number, and the Kubernetes API stores 1.0 as 1: what was written as a float
arrives as an integer, and `torch.tensor([1, 2])` is a tensor of another dtype.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, Final, Union, get_args, get_origin, get_type_hints

VAGUE: Final = (Any, list, tuple, dict)
"""Annotations that say nothing of numbers."""


def with_floats(call: Callable[..., Any], args: Mapping[str, Any]) -> dict[str, Any]:
    """`args` with integers made floats where the parameters of `call` are annotated as floats.

    It follows `Optional`, unions, `list`, `tuple`, `dict` and their abstract kinds, however nested.
    Where the annotation does not say (none, `list`, `dict`), the default value does. A value that
    may be an `int`, or of which nothing is known, is kept. Raises OverflowError for an integer
    beyond the range of floats.
    """
    parameters = inspect.signature(call).parameters
    rest = next((p for p in parameters.values() if p.kind is p.VAR_KEYWORD), None)
    return {
        name: _converted(value, _hint(call, parameters.get(name, rest)))
        for name, value in args.items()
    }


def _hint(call: Callable[..., Any], parameter: inspect.Parameter | None) -> Any:
    """What a parameter takes, by its annotation or by its default."""
    if parameter is None:
        return Any
    hint = _annotation(call, parameter)
    if hint is parameter.empty or hint in VAGUE:
        return _hint_of_default(parameter.default)
    return hint


def _hint_of_default(default: Any) -> Any:
    """`float`, `list[float]` or `dict[str, float]` for a default of these."""
    if isinstance(default, float):
        return float
    if isinstance(default, list | tuple) and default and _are_floats(default):
        return list[float]
    if isinstance(default, dict) and default and _are_floats(default.values()):
        return dict[str, float]
    return Any


def _are_floats(values: Collection[Any]) -> bool:
    return all(isinstance(value, float) for value in values)


def _annotation(call: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """The annotation of a parameter, resolved where it is written as a string."""
    function: Any = call.__init__ if isinstance(call, type) else call  # type: ignore[misc]
    known = getattr(inspect.unwrap(function), "__globals__", {})
    holder = types.SimpleNamespace(__annotations__={"it": parameter.annotation})
    try:
        return get_type_hints(holder, globalns=known)["it"]
    except Exception:  # a name that only type checkers import, or no type at all
        return Any


def _converted(value: Any, hint: Any) -> Any:
    """`value` with integers made floats where `hint` has a float and no int."""
    kinds = _alternatives(hint)
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value) if float in kinds and int not in kinds else value
    for kind in kinds:
        origin, inner = get_origin(kind), get_args(kind)
        if isinstance(value, list) and inner and _holds_items(origin):
            return [_converted(item, _item_hint(inner, at)) for at, item in enumerate(value)]
        if isinstance(value, dict) and len(inner) == 2 and _is_a(origin, Mapping):
            return {name: _converted(item, inner[1]) for name, item in value.items()}
    return value


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """The members of a union, the only one of any other hint."""
    if get_origin(hint) is Annotated:
        return _alternatives(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType):
        return tuple(kind for member in get_args(hint) for kind in _alternatives(member))
    return (hint,)


def _holds_items(origin: Any) -> bool:
    return _is_a(origin, Collection) and not _is_a(origin, Mapping)


def _is_a(origin: Any, kind: type) -> bool:
    return isinstance(origin, type) and issubclass(origin, kind)


def _item_hint(inner: tuple[Any, ...], at: int) -> Any:
    """The hint of an item: of `tuple[int, float]` by its place, else of all."""
    if len(inner) == 1 or inner[1] is Ellipsis:
        return inner[0]
    return inner[at] if at < len(inner) else Any
