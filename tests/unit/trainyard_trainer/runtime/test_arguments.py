"""Floats that JSON or the Kubernetes API made integers are floats again for the Task."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainyard_trainer.runtime.arguments import with_floats

if TYPE_CHECKING:
    from decimal import Decimal


def stored(value: Any) -> Any:
    """`value` as the Kubernetes API returns it: floats without a fraction as integers."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case list():
            return [stored(item) for item in value]
        case dict():
            return {name: stored(item) for name, item in value.items()}
    return value


def typed(value: Any) -> str:
    """A form in which 1 and 1.0 differ, and True from both."""
    return json.dumps(value)


def made(annotation: Any, default: Any = None) -> type:
    """A class whose constructor takes `it`, so annotated; not at all for None."""

    def construct(self: Any, it: Any = default) -> None: ...

    construct.__annotations__ = {} if annotation is None else {"it": annotation}
    return type("Made", (), {"__init__": construct})


FLOATS = st.floats(allow_nan=False, allow_infinity=False).map(lambda value: value + 0.0)
"""Without -0.0, which the API stores as 0."""
INTEGERS = st.integers(-(2**53), 2**53)
TEXTS = st.text(max_size=3)

LIST: Any = list
TUPLE: Any = tuple
DICT: Any = dict
SEQUENCE: Any = Sequence
MAPPING: Any = Mapping
"""Types as values, to be given parameters that are drawn."""

Typed = tuple[Any, st.SearchStrategy[Any]]
LEAVES: list[Typed] = [
    (float, FLOATS),
    (int, INTEGERS),
    (bool, st.booleans()),
    (str, TEXTS),
    (Optional[float], st.none() | FLOATS),  # noqa: UP045 - the old spelling is one to follow
    (float | None, st.none() | FLOATS),
    (float | str, TEXTS | FLOATS),
    (Annotated[float, "a rate"], FLOATS),
    (Literal[1, 2], st.sampled_from([1, 2])),
]


def nested(inner: st.SearchStrategy[Typed]) -> st.SearchStrategy[Typed]:
    """Containers of what `inner` draws, as an annotation and values of it."""

    def grown(kind: Typed) -> st.SearchStrategy[Typed]:
        hint, values = kind
        lists, dicts = st.lists(values, max_size=3), st.dictionaries(TEXTS, values, max_size=3)
        return st.sampled_from(
            [
                (LIST[hint], lists),
                (SEQUENCE[hint], lists),
                (TUPLE[hint, ...], lists),
                (LIST[hint] | None, st.none() | lists),
                (DICT[str, hint], dicts),
                (MAPPING[str, hint], dicts),
            ]
        )

    return inner.flatmap(grown)


@given(st.data())
def test_what_the_api_stores_is_restored_by_any_annotation(data: st.DataObject) -> None:
    hint, values = data.draw(st.recursive(st.sampled_from(LEAVES), nested, max_leaves=3))
    value = data.draw(values)
    assert typed(with_floats(made(hint), {"it": stored(value)})["it"]) == typed(value)


@given(st.data())
def test_what_is_right_already_is_kept(data: st.DataObject) -> None:
    hint, values = data.draw(st.recursive(st.sampled_from(LEAVES), nested, max_leaves=3))
    value = data.draw(values)
    assert typed(with_floats(made(hint), {"it": value})["it"]) == typed(value)


@pytest.mark.parametrize(
    ("call", "value", "expected"),
    {
        "a place of a tuple": (made(tuple[int, float]), [1, 2], [1, 2.0]),
        "more items than places": (made(tuple[float, float]), [1, 2, 3], [1.0, 2.0, 3]),
        "either": (made(float | int), 1, 1),
        "a list or a float": (made(list[float] | float), [1], [1.0]),
        "no annotation, a float by default": (made(None, 0.5), 1, 1.0),
        "no annotation, an int by default": (made(None, 2), 1, 1),
        "a bare list, floats by default": (made(list, [1.0, 2.0]), [1, 2], [1.0, 2.0]),
        "a bare dict, floats by default": (made(dict, {"a": 1.0}), {"b": 2}, {"b": 2.0}),
        "a bare list, ints by default": (made(list, [1, 2]), [1, 2], [1, 2]),
        "a bare list, nothing by default": (made(list, []), [1], [1]),
        "a bool": (made(float), True, True),
        "a text": (made(float), "1", "1"),
        "a name that only type checkers import": (made("Decimal"), 1, 1),
        "no expression": (made("not one"), 1, 1),
    }.values(),
)
def test_one_argument(call: Callable[..., Any], value: Any, expected: Any) -> None:
    assert typed(with_floats(call, {"it": value})["it"]) == typed(expected)


@dataclass
class Written:
    """Annotations are strings in this file, and one of them cannot be resolved."""

    rate: float
    steps: int
    cost: Decimal | None = None


class Derived(Written):
    pass


class Open:
    def __init__(self, **rates: float) -> None: ...


@pytest.mark.parametrize("cls", [Written, Derived])
def test_annotations_written_as_strings_are_resolved_one_by_one(cls: type) -> None:
    args = with_floats(cls, {"rate": 1, "steps": 1, "cost": 1})
    assert typed(args) == typed({"rate": 1.0, "steps": 1, "cost": 1})


def test_keywords_of_any_name_have_the_type_of_all() -> None:
    assert typed(with_floats(Open, {"a": 1, "b": 2})) == typed({"a": 1.0, "b": 2.0})


def test_an_integer_beyond_the_floats_is_an_error() -> None:
    with pytest.raises(OverflowError, match="too large"):
        with_floats(made(float), {"it": 10**400})
