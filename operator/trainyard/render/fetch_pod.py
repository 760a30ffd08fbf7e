"""The pod that reads a finished job's claim when its coordinator is gone."""

from __future__ import annotations

from trainyard.api.containers import CONTAINER
from trainyard.api.jobs import Job
from trainyard.render.base_pod import CONTAINER_SECURITY, POD_SECURITY, Manifest
from trainyard.render.environment import variable
from trainyard.render.ownership import owner_of
from trainyard.render.pods import state_directory
from trainyard_trainer.contract.env import ENV_STATE, STATE_DIR

LIFETIME_SECONDS = 900
"""The pod ends by itself after this if the command that created it does not delete it."""


def fetch_pod(job: Job, name: str) -> Manifest:
    """A pod of the job's own image that mounts the claim read-only and sleeps: users exec in it."""
    mount = {"name": "trainyard-state", "mountPath": STATE_DIR, "readOnly": True}
    container = {
        "name": CONTAINER,
        "image": job.image,
        "command": ["sleep", str(LIFETIME_SECONDS)],
        "env": [variable(ENV_STATE, state_directory(job))],
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}},
        "volumeMounts": [mount],
        "securityContext": CONTAINER_SECURITY,
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
            "activeDeadlineSeconds": LIFETIME_SECONDS,
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "securityContext": POD_SECURITY,
            "imagePullSecrets": job.spec.template.image_pull_secrets,
            "containers": [container],
            "volumes": [{"name": "trainyard-state", "persistentVolumeClaim": claim}],
        },
    }
