"""What is taken of an operator's requests, and what becomes of it for another job."""

from __future__ import annotations

from typing import Any

import msgspec

from benchmarks.recorder import Request
from benchmarks.template import NAME, VERSION, template_of
from trainyard.api import names

JOBS = f"/apis/{names.API_VERSION}/namespaces/team/{names.DISTRIBUTED_JOBS}"
STATUS = f"{JOBS}/{NAME}/status"


def request(method: str, path: str, body: Any, content_type: str = "application/json") -> Request:
    return Request(
        method=method,
        path=path,
        query={"fieldManager": "trainyard"},
        content_type=content_type,
        body=msgspec.json.encode(body).decode(),
    )


def pod(role: str, job: str = NAME) -> Request:
    container = {"name": "trainer", "image": "i", "resources": {}, "env": [{"name": "A"}]}
    labels = {names.LABEL_JOB: job, names.LABEL_ROLE: role}
    metadata: dict[str, Any] = {"name": f"{job}-{role}", "namespace": "team", "labels": labels}
    metadata["ownerReferences"] = [{"uid": "the-uid"}]
    manifest = {"metadata": metadata, "spec": {"containers": [container], "volumes": []}}
    return request("POST", "/api/v1/namespaces/team/pods", manifest)


def status(phase: str, version: str = "") -> Request:
    metadata = {"uid": "the-uid", **({"resourceVersion": version} if version else {})}
    body = {"metadata": metadata, "status": {"phase": phase}}
    return request("PATCH", STATUS, body, "application/merge-patch+json")


def recorded() -> list[Request]:
    return [
        request("PATCH", f"{JOBS}/{NAME}", {"metadata": {"finalizers": ["ours"]}}),
        request("POST", "/api/v1/namespaces/team/services", {"metadata": {"name": "trainyard"}}),
        pod("coordinator"),
        pod("worker"),
        pod("worker", job="another-job"),
        status("Pending", "10"),
        status("Starting", "11"),
        request("POST", "/api/v1/namespaces/team/events", {"metadata": {"name": f"{NAME}.1"}}),
        status("Running", "12"),
        status("Running", "13"),
        pod("worker"),
    ]


def test_a_template_has_the_jobs_own_objects_and_its_first_and_last_status() -> None:
    template = template_of(recorded(), "team", "system", "the-uid")
    assert template.create == [pod("coordinator"), pod("worker")]
    assert template.pods == 2
    assert template.statuses == [status("Pending", VERSION), status("Running", VERSION)]


def test_a_status_without_a_resource_version_is_kept_to_the_byte() -> None:
    applied = request("PATCH", STATUS, {"status": {"phase": "Running"}}, "application/apply-patch")
    assert template_of([applied], "team", "system", "the-uid").statuses == [applied]


def test_a_peer_makes_only_bare_workers_and_one_status() -> None:
    bare = template_of(recorded(), "team", "system", "the-uid").bare()
    assert bare.pods == len(bare.create) == 1
    assert bare.statuses == [status("Running", VERSION)]
    manifest = msgspec.json.decode(bare.create[0].body)
    assert "volumes" not in manifest["spec"]
    assert manifest["metadata"]["labels"][names.LABEL_ROLE] == "worker"
    assert bare.create[0].query == {"fieldManager": "trainyard"}
