"""Variants of a pod of ours, each without one of its features: pure."""

from __future__ import annotations

import copy
from collections.abc import Callable

from benchmarks.barepod import Manifest, bare_pod, simulated_only

Edit = Callable[[Manifest], Manifest]
OURS, BARE = "ours", "bare"


def pod_variants(pod: Manifest) -> dict[str, Edit]:
    """How to make each variant of a pod that has the same features as this one."""
    edits: dict[str, Edit] = {
        OURS: copy.deepcopy,
        BARE: bare_pod,
        "without affinity": _without("spec", "affinity"),
        "without tolerations": _without_tolerations,
        "without fieldRef": _without_field_refs,
        "without securityContext": _without_security,
        "without blockOwnerDeletion": _without_block_owner_deletion,
        "without ownerReferences": _without("metadata", "ownerReferences"),
        "without labels": _without("metadata", "labels"),
        "without volumes": _without_volumes(*_volumes(pod)),
        **{f"without volume {name}": _without_volumes(name) for name in _volumes(pod)},
        "with a service account token": _without("spec", "automountServiceAccountToken"),
        "hostname and subdomain toggled": _toggle_dns_name,
    }
    return {name: edit for name, edit in edits.items() if name == OURS or edit(pod) != pod}


def _volumes(pod: Manifest) -> list[str]:
    return [volume["name"] for volume in pod["spec"].get("volumes", [])]


def _without(part: str, field: str) -> Edit:
    def edit(pod: Manifest) -> Manifest:
        return {**pod, part: {key: value for key, value in pod[part].items() if key != field}}

    return edit


def _without_tolerations(pod: Manifest) -> Manifest:
    return _with_spec(pod, tolerations=simulated_only(pod["spec"].get("tolerations", [])))


def _without_field_refs(pod: Manifest) -> Manifest:
    def edit(container: Manifest) -> Manifest:
        env = [variable for variable in container.get("env", []) if "valueFrom" not in variable]
        return {**container, "env": env}

    return _with_containers(pod, edit)


def _without_security(pod: Manifest) -> Manifest:
    def edit(container: Manifest) -> Manifest:
        return {key: value for key, value in container.items() if key != "securityContext"}

    return _without("spec", "securityContext")(_with_containers(pod, edit))


def _without_volumes(*names: str) -> Edit:
    def edit(container: Manifest) -> Manifest:
        mounts = [m for m in container.get("volumeMounts", []) if m["name"] not in names]
        return {**container, "volumeMounts": mounts}

    def edit_pod(pod: Manifest) -> Manifest:
        volumes = [v for v in pod["spec"].get("volumes", []) if v["name"] not in names]
        return _with_spec(_with_containers(pod, edit), volumes=volumes)

    return edit_pod


def _without_block_owner_deletion(pod: Manifest) -> Manifest:
    owners = [
        {key: value for key, value in owner.items() if key != "blockOwnerDeletion"}
        for owner in pod["metadata"].get("ownerReferences", [])
    ]
    return {**pod, "metadata": {**pod["metadata"], "ownerReferences": owners}}


def _toggle_dns_name(pod: Manifest) -> Manifest:
    if "subdomain" in pod["spec"]:
        return _without("spec", "hostname")(_without("spec", "subdomain")(pod))
    return _with_spec(pod, hostname=pod["metadata"]["name"], subdomain="trainyard")


def _with_containers(pod: Manifest, edit: Edit) -> Manifest:
    return _with_spec(pod, containers=[edit(c) for c in pod["spec"]["containers"]])


def _with_spec(pod: Manifest, **fields: object) -> Manifest:
    return {**pod, "spec": {**pod["spec"], **fields}}
