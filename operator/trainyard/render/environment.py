"""Environment variables whose values arrive in a container as they are written."""

from __future__ import annotations

from typing import Any


def variable(name: str, value: str) -> dict[str, Any]:
    """A variable with this value, whatever is in it.

    Kubernetes would replace `$(NAME)` by another variable and `$$` by `$`; a doubled `$` is one.
    """
    return {"name": name, "value": value.replace("$", "$$")}


def field_variable(name: str, path: str) -> dict[str, Any]:
    """A variable with the value of a field of the pod."""
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}
