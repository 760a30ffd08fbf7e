"""How a job's coordinator is found: its DNS name, and the Service of the namespace behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from trainyard.api import names
from trainyard.api.names import Key
from trainyard_trainer.contract.env import COORDINATOR_PORT, Role

_SPEC: Final[Mapping[str, Any]] = {
    "clusterIP": "None",
    # Workers may connect before the pod is ready, and retry until it answers.
    "publishNotReadyAddresses": True,
    # Members' pods stay out: each change of a selected pod is a sync of two controllers.
    "selector": {
        names.LABEL_MANAGED_BY: names.MANAGER,
        names.LABEL_ROLE: str(Role.COORDINATOR),
    },
}
"""The fields on which the coordinators' DNS names depend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """The names by which the pods of one job find their coordinator."""

    service: str
    """The namespace's Service, which is the pods' subdomain; empty for a job that began when each
    job had a Service of its own."""
    cluster_domain: str

    def coordinator_host(self, key: Key) -> str:
        """The DNS name of a job's coordinator, whichever its term."""
        hostname = names.coordinator_hostname(key.name)
        service = f"{hostname}.{self.service}" if self.service else hostname
        return f"{service}.{key.namespace}.svc.{self.cluster_domain}"

    def certified_hosts(self, key: Key) -> tuple[str, ...]:
        """The DNS names in a coordinator's certificate.

        The one of the job's own Service too, so that an operator of an earlier release, to which
        somebody rolls back, accepts the coordinator.
        """
        own_service = Network(service="", cluster_domain=self.cluster_domain)
        return tuple({self.coordinator_host(key): None, own_service.coordinator_host(key): None})


def namespace_service(namespace: str, name: str) -> dict[str, Any]:
    """The headless Service under which DNS serves the coordinators of all jobs of a namespace.

    It belongs to no job, and so has no owner reference.
    """
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {names.LABEL_MANAGED_BY: names.MANAGER},
        },
        "spec": {**_SPEC, "ports": [{"name": "https", "port": COORDINATOR_PORT}]},
    }


def unsuitable(service: Mapping[str, Any]) -> str:
    """Why coordinators cannot be found by an existing Service, and what helps; empty if they can.

    A Service without our label is somebody else's, whatever its spec.
    """
    meta, spec = service["metadata"], service.get("spec") or {}
    subject = f"Service {meta['name']} in namespace {meta['namespace']}"
    label = (meta.get("labels") or {}).get(names.LABEL_MANAGED_BY)
    if label != names.MANAGER:
        return (
            f"{subject} is not of this operator (no label "
            f"{names.LABEL_MANAGED_BY}={names.MANAGER}) and is left alone: delete or rename it, or "
            "give the operator's another name (helm upgrade --set serviceName=NAME)"
        )
    changed = [f"spec.{field}" for field, value in _SPEC.items() if spec.get(field) != value]
    if changed:
        return (
            f"{subject} was changed ({', '.join(changed)}), so that coordinators have no DNS "
            "names: delete it, and the operator creates it again"
        )
    return ""
