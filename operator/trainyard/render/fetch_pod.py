"""The pod that reads a finished job's claim when its coordinator is gone."""

from __future__ import annotations

from trainyard.api.containers import CONTAINER
from trainyard.api.jobs import Job
from trainyard.render.base_pod import CONTAINER_SECURITY, USER, Manifest, pod_security
from trainyard.render.environment import variable
from trainyard.render.ownership import owner_of
from trainyard.render.pods import state_directory
from trainyard_trainer.contract.env import ENV_STATE, STATE_DIR

LIFETIME_SECONDS = 900
"""The pod ends by itself after this if the command that created it does not delete it."""


def fetch_pod(job: Job, name: str, user: int | None = USER) -> Manifest:
    """A pod of the job's own image that mounts the claim read-only and sleeps: users exec in it.

    Where it runs, as whom and under which labels is as the coordinator's.
    """
    template = job.spec.coordinator.template_with(job.spec.template)
    metadata = {
        "labels": template.metadata.labels,
        "annotations": template.metadata.annotations,
    }
    optional = {
        "imagePullSecrets": template.image_pull_secrets,
        "nodeSelector": template.node_selector,
        "tolerations": template.tolerations,
        "affinity": template.affinity,
        "schedulerName": template.scheduler_name,
        "serviceAccountName": template.service_account_name,
    }
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
            **{field: value for field, value in metadata.items() if value},
            "ownerReferences": [{**owner_of(job), "controller": False}],
        },
        "spec": {
            "restartPolicy": "Never",
            "activeDeadlineSeconds": LIFETIME_SECONDS,
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "securityContext": pod_security(template, user),
            "containers": [container],
            "volumes": [{"name": "trainyard-state", "persistentVolumeClaim": claim}],
            **{field: value for field, value in optional.items() if value},
        },
    }
