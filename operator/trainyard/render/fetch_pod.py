"""The pod that reads a finished job's claim when no coordinator is left to ask."""

from __future__ import annotations

from typing import Any

from trainyard.api.jobs import Job
from trainyard.render.base_pod import USER
from trainyard.render.ownership import owner_of
from trainyard.render.pods import state_folder
from trainyard_trainer.contract.env import ENV_STATE, STATE_DIR

LIFE_SECONDS = 900
"""The pod ends by itself after this, should its user's machine vanish."""


def fetch_pod(job: Job, name: str) -> dict[str, Any]:
    """A pod of the job's own image that mounts the claim read-only and waits to be asked."""
    mounts = {
        "name": "trainyard-state",
        "mountPath": STATE_DIR,
        "readOnly": True,
    }
    container = {
        "name": "trainer",
        "image": job.spec.image,
        "command": ["sleep", str(LIFE_SECONDS)],
        "env": [{"name": ENV_STATE, "value": state_folder(job)}],
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}},
        "volumeMounts": [mounts],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    claim = {"claimName": job.spec.state.claim_name, "readOnly": True}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": job.key.namespace,
            "ownerReferences": [{**owner_of(job), "controller": False}],
        },
        "spec": {
            "restartPolicy": "Never",
            "activeDeadlineSeconds": LIFE_SECONDS,
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": USER,
                "runAsGroup": USER,
                "fsGroup": USER,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "imagePullSecrets": job.spec.template.image_pull_secrets,
            "containers": [container],
            "volumes": [{"name": "trainyard-state", "persistentVolumeClaim": claim}],
        },
    }
