"""Which priority classes count for whom."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

DEFAULT_CLASS: Final = ""
"""Stands for the class that Kubernetes gives to pods that name none."""
_SYSTEM_PREFIX: Final = "system-"
_SYSTEM_NAMESPACE: Final = "kube-system"


def may_use(namespace: str, priority_class: str, allowed: Mapping[str, Collection[str]]) -> bool:
    """Whether the class counts for jobs of the namespace.

    Where `allowed` names a class, only the namespaces listed there may use it. The classes that
    Kubernetes reserves for itself count in its own namespace alone, unless listed.
    """
    if priority_class in allowed:
        return namespace in allowed[priority_class]
    return namespace == _SYSTEM_NAMESPACE or not priority_class.startswith(_SYSTEM_PREFIX)
