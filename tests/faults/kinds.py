"""The kinds of jobs: how one is made and resized, and what it has when it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.support import manifests
from tests.support.manifests import Object

LARGEST = 4
"""Workers of the largest job."""
PATIENT = {"maxRestarts": 10_000}
EAGER = {"policy": "Manual", "cooldown": "0s", "maxChangesPerHour": 3600}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One of our resources."""

    plural: str
    make: Callable[[str, str, int], Object]
    """A manifest of this name, for the nodes of this pool, of this size."""
    size: Callable[[int], Object]
    """The change of the spec that gives a job this size; empty where it cannot change."""
    edit: Callable[[int], Object]
    """A change of the spec that changes nothing about the pods."""
    members: Callable[[int], set[tuple[str, str]]]
    """Role, and index or party, of the pods of a running job of this size."""
    trainers: str
    """The role of the pods that train."""


def _distributed(name: str, pool: str, size: int) -> Object:
    made = manifests.job(name, pool, size, minimum=1, maximum=LARGEST, failure=PATIENT)
    made["spec"]["scaling"] = EAGER
    return made


DISTRIBUTED = Kind(
    plural="distributedjobs",
    make=_distributed,
    size=lambda size: {"workers": {"replicas": size}},
    edit=lambda number: {"scaling": {"maxChangesPerHour": 3000 + number}},
    members=lambda size: {("coordinator", "0"), *(("worker", str(i)) for i in range(size))},
    trainers="worker",
)

KINDS = (DISTRIBUTED,)
