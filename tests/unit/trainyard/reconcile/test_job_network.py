"""By which name a job's pods find their coordinator, whichever operator created them."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import pytest
from cryptography import x509

from tests.support.dependencies import dependencies_of
from tests.support.fakeapi import FakeApi, Object
from tests.support.jobs import (
    KEY,
    NETWORK,
    UID,
    at,
    coordinator,
    failing,
    has_run,
    make_job,
    raw_job,
    worker,
)
from trainyard.api.conditions import ConditionType, is_true
from trainyard.api.jobs import Job
from trainyard.api.pods import Pod, parse_pod
from trainyard.api.podset import subdomain_of
from trainyard.cluster.cache import pod_key
from trainyard.reconcile.children import ensure_children
from trainyard.reconcile.dependencies import Dependencies, Options
from trainyard.reconcile.job import reconcile
from trainyard.reconcile.state import ChildrenState

HELD = {"desired": 1, "recommended": 1, "reason": "Admitted", "decisionTime": at()}
CORE = "/api/v1/namespaces/team"
LEAVES = f"{CORE}/secrets/digits-trainyard-tls"
SERVICE = f"{CORE}/services/trainyard"
OWN_HOST = "digits-coordinator.team.svc.cluster.local"
HOST = "digits-coordinator.trainyard.team.svc.cluster.local"


class Server(FakeApi):
    """Completes the pods that are created, and answers a status with the job."""

    async def create(self, path: str, body: Object) -> Object:
        made = await super().create(path, body)
        meta = {"uid": f"uid-{len(self.requests)}", "resourceVersion": "9"}
        made["metadata"] = {**meta, "creationTimestamp": at(), **made["metadata"]}
        return made

    async def get(self, path: str, **options: Any) -> Object:
        return raw_job() if "distributedjobs" in path else await super().get(path, **options)

    @property
    def pods(self) -> dict[str, Pod]:
        """The pods created here, by name."""
        found = (o for o in self.objects.values() if o["kind"] == "Pod")
        return {o["metadata"]["name"]: parse_pod(o) for o in found}

    def hosts_of_members(self) -> set[str]:
        """The coordinator's address in the environment of each worker created here."""
        environments = [
            o["spec"]["containers"][0]["env"] for o in self.objects.values() if o["kind"] == "Pod"
        ]
        return {
            entry["value"].rpartition(":")[0]
            for entries in environments
            for entry in entries
            if entry["name"] == "TRAINYARD_COORDINATOR"
        }

    def certified(self) -> list[str]:
        """The DNS names of the coordinator's certificate."""
        encoded = self.objects[LEAVES]["data"]["coordinator.crt"]
        leaf = x509.load_pem_x509_certificate(base64.b64decode(encoded))
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return names.get_values_for_type(x509.DNSName)


@pytest.fixture
def api() -> Server:
    return Server()


def operator_of(api: Server, job: Job, *pods: Pod, service: str = "trainyard") -> Dependencies:
    """A new operator process that has listed the job and its pods."""
    deps = dependencies_of(api, job, options=Options(service_name=service))
    for found in pods:
        deps.cache.put_pod(found)
    return deps


def started() -> Job:
    return make_job({}, has_run(scaling=HELD))


async def test_a_new_job_is_found_under_the_namespaces_service(api: Server) -> None:
    await reconcile(operator_of(api, make_job({}, {"scaling": HELD})), KEY)
    assert {pod.subdomain for pod in api.pods.values()} == {"trainyard"}
    assert api.hosts_of_members() == {HOST}
    assert api.certified() == [HOST, OWN_HOST]
    assert [path for path in api.objects if "/services/" in path] == [SERVICE]


async def test_the_option_names_the_service_of_new_jobs(api: Server) -> None:
    deps = operator_of(api, make_job({}, {"scaling": HELD}), service="other")
    await reconcile(deps, KEY)
    assert {pod.subdomain for pod in api.pods.values()} == {"other"}
    assert api.hosts_of_members() == {"digits-coordinator.other.team.svc.cluster.local"}
    assert [path for path in api.objects if "/services/" in path] == [f"{CORE}/services/other"]


@pytest.mark.parametrize("subdomain", ["", "older"], ids=["its own Service", "another option"])
async def test_a_coordinator_is_replaced_under_the_name_that_workers_resolve(
    api: Server, subdomain: str
) -> None:
    deps = operator_of(api, started(), worker(subdomain=subdomain))
    await reconcile(deps, KEY)
    [replacement] = api.pods.values()
    assert (replacement.role, replacement.subdomain) == ("coordinator", subdomain)
    spec = api.objects[f"{CORE}/pods/{replacement.name}"]["spec"]
    assert ("hostname" in spec) == bool(subdomain)
    services = [path for path in api.objects if "/services/" in path]
    assert services == ([f"{CORE}/services/{subdomain}"] if subdomain else [])


@pytest.mark.parametrize("subdomain", ["", "older"], ids=["its own Service", "another option"])
async def test_a_worker_is_replaced_under_the_name_that_the_coordinator_has(
    api: Server, subdomain: str
) -> None:
    await reconcile(operator_of(api, started(), coordinator(subdomain=subdomain)), KEY)
    [replacement] = api.pods.values()
    assert (replacement.role, replacement.subdomain) == ("worker", subdomain)
    expected = replace(NETWORK, service=subdomain).coordinator_host(KEY)
    assert api.hosts_of_members() == {expected}


async def stored_leaves(api: Server) -> Object:
    """Authority and leaves of an earlier release."""
    network = replace(NETWORK, service="")
    await ensure_children(operator_of(api, started()), started(), ChildrenState(), network)
    assert api.certified() == [OWN_HOST]
    api.requests.clear()
    return api.objects[LEAVES]


async def test_leaves_of_running_pods_stay_as_they_are(api: Server) -> None:
    leaves = await stored_leaves(api)
    await reconcile(operator_of(api, started(), coordinator(), worker()), KEY)
    assert api.objects[LEAVES] is leaves


async def test_a_job_all_of_whose_pods_ended_starts_again_under_the_namespaces_service(
    api: Server,
) -> None:
    """The certificate has the new name before a pod that is found by it is created."""
    await stored_leaves(api)
    await reconcile(operator_of(api, started()), KEY)
    assert {pod.subdomain for pod in api.pods.values()} == {"trainyard"}
    assert api.certified() == [HOST, OWN_HOST]
    written = [path for method, path in api.requests if method in ("POST", "PATCH")]
    pods = [index for index, path in enumerate(written) if "/pods/" in path]
    assert len(pods) == 2
    assert written.index(LEAVES) < min(pods)
    assert written.index(SERVICE) < min(pods)


async def test_the_certificate_follows_within_one_process_too(api: Server) -> None:
    leaves = await stored_leaves(api)
    deps = operator_of(api, started(), coordinator(), worker())
    await reconcile(deps, KEY)
    assert api.objects[LEAVES] is leaves
    for ended in (coordinator(), worker()):
        deps.cache.pods.remove(pod_key(ended))
    await reconcile(deps, KEY)
    assert {pod.subdomain for pod in api.pods.values()} == {"trainyard"}
    assert api.certified() == [HOST, OWN_HOST]


async def test_a_service_of_somebody_else_stops_new_pods_and_disturbs_no_others(
    api: Server,
) -> None:
    api.objects[SERVICE] = foreign = {
        "kind": "Service",
        "metadata": {"name": "trainyard", "namespace": "team"},
        "spec": {},
    }
    job = make_job({}, has_run(scaling={**HELD, "desired": 2, "recommended": 2}))
    pods = coordinator(subdomain="trainyard"), worker(subdomain="trainyard")
    deps = operator_of(api, job, *pods)
    outcome = await reconcile(deps, KEY)
    assert outcome.refusal is not None
    assert api.pods == {}
    assert api.objects[SERVICE] is foreign
    assert [method for method, _ in api.requests if method == "DELETE"] == []
    written = deps.cache.jobs[KEY].status
    [degraded] = [c for c in written.conditions if c.type == ConditionType.DEGRADED]
    assert (degraded.status, degraded.reason) == ("True", "ChildRefused")
    assert "Service trainyard in namespace team is not of this operator" in degraded.message
    del api.objects[SERVICE]
    deps.job_states[KEY].refusals.children.retry_at = deps.clock()  # the pause is over
    assert (await reconcile(deps, KEY)).refusal is None
    assert [pod.member for pod in api.pods.values()] == [1]
    written = deps.cache.jobs[KEY].status
    assert not is_true(written.conditions, ConditionType.DEGRADED)


async def test_a_namespace_without_jobs_is_forgotten(api: Server) -> None:
    """It may be deleted and created again, without the Service."""
    deps = operator_of(api, make_job({}, {"scaling": HELD}))
    await reconcile(deps, KEY)
    assert deps.services.valid_until("team", "trainyard") is not None
    deps.cache.drop_job(KEY)
    await reconcile(deps, KEY)
    assert deps.services.valid_until("team", "trainyard") is None


@pytest.mark.parametrize(
    ("pods", "expected"),
    {
        "no pods": ((), None),
        "finished pods only": ((worker(subdomain="a", **failing()),), None),
        "pods of an earlier job": ((worker(subdomain="a", owner_uid="another"),), None),
        "a member": ((worker(subdomain="a"),), "a"),
        "pods that are being deleted": ((worker(subdomain="a", is_deleting=True),), "a"),
        "a job with a Service of its own": ((coordinator(), worker()), ""),
        "a finished coordinator beside a member": (
            (coordinator(2, subdomain="b", **failing()), worker(subdomain="a")),
            "a",
        ),
        "the newest coordinator first": (
            (coordinator(1, subdomain="a"), coordinator(2, subdomain="b"), worker(subdomain="a")),
            "b",
        ),
    }.values(),
)
def test_the_pods_that_may_still_connect_name_the_service(
    pods: tuple[Pod, ...], expected: str | None
) -> None:
    assert subdomain_of(pods, UID) == expected


def test_the_subdomain_is_read_from_a_pod() -> None:
    meta: dict[str, Any] = {"namespace": "team", "name": "p", "uid": "u", "resourceVersion": "1"}
    labels = {"app.kubernetes.io/managed-by": "trainyard", "trainyard.dev/job": "digits"}
    meta |= {"creationTimestamp": at(), "labels": labels}
    raw = {"metadata": meta, "spec": {"subdomain": "trainyard"}}
    assert parse_pod(raw).subdomain == "trainyard"
    assert parse_pod({**raw, "spec": {}}).subdomain == ""
