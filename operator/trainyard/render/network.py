"""The headless Service that names a job's coordinator."""

from __future__ import annotations

from typing import Any

from trainyard.api import names
from trainyard.api.jobs import Job
from trainyard.render.ownership import labels_of, metadata
from trainyard_trainer.contract.env import COORDINATOR_PORT, Role


def coordinator_service(job: Job) -> dict[str, Any]:
    """Headless: its name resolves to the coordinator's pod, whichever its term."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(job, names.service_name(job.key.name)),
        "spec": {
            "clusterIP": "None",
            # Workers may connect before the pod is ready, and retry until it answers.
            "publishNotReadyAddresses": True,
            "selector": {**labels_of(job.key), names.LABEL_ROLE: str(Role.COORDINATOR)},
            "ports": [{"name": "https", "port": COORDINATOR_PORT}],
        },
    }
