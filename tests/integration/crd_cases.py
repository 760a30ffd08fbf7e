"""The schemas, the tables of cases and the client of the tests of the CRDs."""

from __future__ import annotations

import json
from collections.abc import Iterator
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
"""kubectl's default: unknown fields are rejected, not dropped."""

CRDS: Final = Path(__file__).parents[2] / "crds"
DATA: Final = Path(__file__).parent / "data"


@dataclass(frozen=True)
class Field:
    """A schema within a CRD: a field, the items of a list (`[]`) or the values of a map (`{}`)."""

    path: str
    schema: Manifest
    is_required: bool = True

    @property
    def name(self) -> str:
        """The name of the field; empty for items and values."""
        return "" if self.path[-1] in "]}" else self.path.rpartition(".")[2]


def fields_of(schema: Manifest, path: str = "") -> Iterator[Field]:
    """Yield every schema below this one."""
    required = schema.get("required", [])
    children = [
        Field(f"{path}.{name}", child, name in required)
        for name, child in schema.get("properties", {}).items()
    ]
    children += [
        Field(f"{path}{mark}", child)
        for part, mark in (("items", "[]"), ("additionalProperties", "{}"))
        if isinstance(child := schema.get(part), dict)
    ]
    for child in children:
        yield child
        yield from fields_of(child.schema, child.path)


@dataclass(frozen=True)
class Kind:
    """One of the two kinds: its CRD, and the table of its accepted and rejected manifests."""

    plural: str
    table: Manifest

    @cached_property
    def crd(self) -> Manifest:
        """The CRD of this checkout."""
        manifest: Manifest = yaml.safe_load(
            (CRDS / f"{self.plural}.trainyard.dev.yaml").read_text()
        )
        return manifest

    @cached_property
    def schema(self) -> Manifest:
        """Its OpenAPI schema."""
        manifest: Manifest = self.crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        return manifest

    @property
    def base(self) -> Manifest:
        """The valid manifest that every case modifies."""
        manifest: Manifest = self.table["base"]
        return manifest


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
"""Defaults of `spec.failure`, in both kinds."""

STARTED: Final = {"status": {"startTime": "2026-01-01T00:00:00Z"}}
STATES: Final[dict[str, tuple[bool, bool]]] = {
    "running": (False, True),
    "suspended": (True, True),
    "fresh": (True, False),
}
"""Whether a job is suspended and whether it has started, by the name of its state."""


def kubectl(cluster: Cluster, *args: str) -> str:
    """Run kubectl and return its output."""
    return run([cluster.kubectl, "--kubeconfig", cluster.kubeconfig, *args])


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
    """Client for the jobs of one kind in one namespace."""

    def __init__(self, api: client.ApiClient, namespace: str, kind: Kind = DISTRIBUTED) -> None:
        self._api = client.CustomObjectsApi(api)
        self._collection = (GROUP, VERSION, namespace, kind.plural)
        self.kind = kind

    def create(self, manifest: Manifest, *, dry_run: bool = True) -> Manifest:
        """Create a job; a dry run validates it and stores nothing."""
        created: Manifest = self._api.create_namespaced_custom_object(
            *self._collection, manifest, **STRICT, **_dry(dry_run)
        )
        return created

    def patch(self, name: str, patch: Manifest, *, dry_run: bool = True) -> Manifest:
        """Apply a merge patch."""
        patched: Manifest = self._api.patch_namespaced_custom_object(
            *self._collection,
            name,
            patch,
            **STRICT,
            _content_type=MERGE,
            **_dry(dry_run),
        )
        return patched

    def patch_status(self, name: str, patch: Manifest) -> Manifest:
        """Apply a merge patch to the status, as the operator does."""
        patched: Manifest = self._api.patch_namespaced_custom_object_status(
            *self._collection, name, patch, **STRICT, _content_type=MERGE
        )
        return patched

    def delete(self, name: str) -> None:
        """Delete a job."""
        self._api.delete_namespaced_custom_object(*self._collection, name)


def error_message(error: client.ApiException) -> str:
    """Return the message of the API server's error."""
    message: str = json.loads(error.body)["message"]
    return message


def _dry(dry_run: bool) -> dict[str, str]:
    return {"dry_run": "All"} if dry_run else {}
