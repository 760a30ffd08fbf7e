"""How a kubelet makes a container's environment: `third_party/forked/golang/expansion` in Go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def environment_of(variables: Iterable[Mapping[str, Any]], fields: str = "?") -> dict[str, str]:
    """The environment of a container with these variables; `fields` for those of the pod.

    A variable may refer to those before it.
    """
    found: dict[str, str] = {}
    for variable in variables:
        is_field = "valueFrom" in variable
        found[variable["name"]] = fields if is_field else expand(variable.get("value", ""), found)
    return found


def expand(text: str, variables: Mapping[str, str]) -> str:
    """The text with `$(NAME)` replaced, where there is such a variable, and `$$` by `$`."""
    expanded, rest = "", text
    while rest:
        before, dollar, rest = rest.partition("$")
        expanded += before
        if not dollar:
            break
        name, parenthesis, behind = rest[1:].partition(")")
        if rest.startswith("$"):
            expanded, rest = expanded + "$", rest[1:]
        elif rest.startswith("(") and parenthesis:
            expanded, rest = expanded + variables.get(name, f"$({name})"), behind
        else:
            expanded += "$"
    return expanded
