"""What the tests of the CRDs share: the schema, the table of cases, and the requests."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import yaml
from kubernetes import client

from tools.localcluster import Cluster
from tools.localcluster.commands import run

Manifest = dict[str, Any]

GROUP: Final = "trainyard.dev"
VERSION: Final = "v1alpha1"
MERGE: Final = "application/merge-patch+json"
STRICT: Final = {"field_validation": "Strict"}
"""As kubectl asks for: unknown fields are refused, not dropped."""

CRDS: Final = Path(__file__).parents[2] / "crds"
DATA: Final = Path(__file__).parent / "data"


@dataclass(frozen=True)
class Kind:
    """One of the two kinds: its CRD, and the table of what the API server says to its manifests."""

    plural: str
    table: Manifest

    @cached_property
    def crd(self) -> Manifest:
        """The CRD of this checkout."""
        found: Manifest = yaml.safe_load((CRDS / f"{self.plural}.trainyard.dev.yaml").read_text())
        return found

    @cached_property
    def schema(self) -> Manifest:
        """Its OpenAPI schema."""
        found: Manifest = self.crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        return found

    @property
    def base(self) -> Manifest:
        """The right manifest that every case changes."""
        found: Manifest = self.table["base"]
        return found


def _kind(plural: str, table: str) -> Kind:
    return Kind(plural, yaml.safe_load((DATA / table).read_text()))


DISTRIBUTED: Final = _kind("distributedjobs", "crd_refusals.yaml")
FEDERATED: Final = _kind("federatedjobs", "crd_refusals_federated.yaml")
KINDS: Final = (DISTRIBUTED, FEDERATED)

CRD: Final = DISTRIBUTED.crd
SCHEMA: Final = DISTRIBUTED.schema
BASE: Final = DISTRIBUTED.base

FAILURE_DEFAULTS: Final = {
    "retry": "Step",
    "maxRestarts": 10,
    "hungAfterSteps": 10,
    "replaceStragglers": False,
}
"""Of `spec.failure`, in both kinds."""

STARTED: Final = {"status": {"startTime": "2026-01-01T00:00:00Z"}}
STATES: Final[dict[str, tuple[bool, bool]]] = {
    "running": (False, True),
    "suspended": (True, True),
    "fresh": (True, False),
}
"""By the name of a state: whether the job is suspended, and whether it has started."""


def kubectl(cluster: Cluster, *words: str) -> str:
    """What kubectl prints."""
    return run([cluster.kubectl, "--kubeconfig", cluster.kubeconfig, *words])


def merged(target: Any, patch: Any) -> Any:
    """Apply a JSON merge patch (RFC 7396)."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


class Jobs:
    """The jobs of one kind in one namespace, as the API server keeps them."""

    def __init__(self, api: client.ApiClient, namespace: str, kind: Kind = DISTRIBUTED) -> None:
        self._api = client.CustomObjectsApi(api)
        self._place = (GROUP, VERSION, namespace, kind.plural)
        self.kind = kind

    def create(self, manifest: Manifest, *, dry_run: bool = True) -> Manifest:
        """Send a new job; a dry run passes every check and stores nothing."""
        asked: Manifest = self._api.create_namespaced_custom_object(
            *self._place, manifest, **STRICT, **_dry(dry_run)
        )
        return asked

    def patch(self, name: str, patch: Manifest, *, dry_run: bool = True) -> Manifest:
        """Send a merge patch."""
        asked: Manifest = self._api.patch_namespaced_custom_object(
            *self._place,
            name,
            patch,
            **STRICT,
            _content_type=MERGE,
            **_dry(dry_run),
        )
        return asked

    def patch_status(self, name: str, patch: Manifest) -> Manifest:
        """Send a merge patch of the status, as the operator does."""
        asked: Manifest = self._api.patch_namespaced_custom_object_status(
            *self._place, name, patch, **STRICT, _content_type=MERGE
        )
        return asked

    def delete(self, name: str) -> None:
        """Delete a job."""
        self._api.delete_namespaced_custom_object(*self._place, name)


def refusal(error: client.ApiException) -> str:
    """The sentence of an answer that is not a success."""
    message: str = json.loads(error.body)["message"]
    return message


def _dry(dry_run: bool) -> dict[str, str]:
    return {"dry_run": "All"} if dry_run else {}
