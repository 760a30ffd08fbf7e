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
    """The change of the spec that gives a job this size."""
    can_shrink: bool
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
    can_shrink=True,
    members=lambda size: {("coordinator", "0"), *(("worker", str(i)) for i in range(size))},
    trainers="worker",
)


def _parties(size: int) -> list[Object]:
    """Every second one has a GPU; all but the first may be missed."""
    return [{"name": f"party-{i}", "gpus": i % 2} for i in range(size)]


def _federated(name: str, pool: str, size: int) -> Object:
    like = manifests.job(name, pool)["spec"]
    return {
        "apiVersion": "trainyard.dev/v1alpha1",
        "kind": "FederatedJob",
        "metadata": {"name": name},
        "spec": {
            "task": like["task"],
            "image": like["image"],
            "parties": _parties(size),
            "rounds": {"minParties": 1},
            "template": like["workers"]["template"],
            "coordinator": {},
            "failure": PATIENT,
        },
    }


FEDERATED = Kind(
    plural="federatedjobs",
    make=_federated,
    size=lambda size: {"parties": _parties(size)},
    can_shrink=False,
    members=lambda size: {("coordinator", "0"), *(("party", f"party-{i}") for i in range(size))},
    trainers="party",
)

KINDS = (DISTRIBUTED, FEDERATED)
