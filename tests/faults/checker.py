"""The final state: every job in the state that its user wants, without orphans."""

from __future__ import annotations

from tests.faults.workload import Job, Workload
from tests.support.manifests import Object
from tests.support.testbed import Testbed, condition, phase
from trainyard.api.names import API_VERSION
from trainyard.cluster.client import collection
from trainyard.cluster.errors import ApiError


class Checker:
    """Compares the cluster with the workload; every check raises AssertionError."""

    def __init__(self, testbed: Testbed, workload: Workload, operator_namespace: str) -> None:
        self._testbed, self._workload = testbed, workload
        self._operator_namespace = operator_namespace

    async def check(self) -> None:
        """Check every job and every child."""
        pods = await self._testbed.pods()
        for job in self._workload.jobs:
            own = [p for p in pods if _owner(p) == job.uid]
            if job.expected == "deleted":
                assert not own, f"{job} is deleted and has {_names(own)}"
                continue
            manifest = await self._get(job)
            live = [p for p in own if _is_live(p)]
            match job.expected:
                case "Running":
                    _check_running(job, manifest, live)
                case "Suspended":
                    _check_suspended(job, manifest, live)
                case "Complete":
                    _check_complete(job, manifest, live)
        await self._check_orphans(pods)

    async def _get(self, job: Job) -> Object:
        try:
            manifest = await self._testbed.client.get(self._workload.path(job))
        except ApiError as error:
            raise AssertionError(f"{job}: {error}") from None
        assert manifest["metadata"]["uid"] == job.uid, f"{job} is another job"
        return manifest

    async def _check_orphans(self, pods: list[Object]) -> None:
        existing = {job.uid for job in self._workload.existing()}
        for plural in ("services", "secrets", "pods"):
            items = pods if plural == "pods" else await self._list(self._testbed.path(plural))
            orphans = [p for p in items if _owner(p) and _owner(p) not in existing]
            assert not orphans, f"{plural} of deleted jobs: {_names(orphans)}"
        services = await self._list(self._testbed.path("services"))
        assert {s["metadata"]["name"] for s in services} <= {"trainyard"}, "one a namespace"
        own = await self._list(collection("v1", "secrets", self._operator_namespace))
        assert [s["metadata"]["name"] for s in own] == ["trainyard-master"]
        certified = {_owner(s) for s in await self._list(self._testbed.path("secrets"))}
        running = {job.uid for job in self._workload.existing("Running")}
        assert running <= certified, f"jobs without certificates: {running - certified}"

    async def _list(self, path: str, **selectors: str) -> list[Object]:
        return [item async for item in self._testbed.client.list_all(path, **selectors)]


def _check_running(job: Job, manifest: Object, live: list[Object]) -> None:
    description = _describe(job, manifest)
    assert phase(manifest) == "Running", description
    status = manifest["status"]
    assert status["observedGeneration"] == manifest["metadata"]["generation"], description
    members = sorted(_member(p) for p in live)
    assert members == sorted(job.kind.members(job.size)), f"{job} has {_names(live)}"
    assert {p["status"]["phase"] for p in live} == {"Running"}, f"{job}: not all pods run"
    terms = {int(_label(p, "attempt")) for p in live if _label(p, "role") == "coordinator"}
    assert terms == {status["term"]}, f"{job}: coordinators {terms}, status {status['term']}"
    for type_ in ("Running", "Admitted"):
        assert condition(manifest, type_)["status"] == "True", description
    if "scaling" in status:
        sizes = (status["scaling"]["current"], status["scaling"]["desired"])
        assert sizes == (job.size, job.size), description


def _check_suspended(job: Job, manifest: Object, live: list[Object]) -> None:
    assert phase(manifest) == "Suspended", _describe(job, manifest)
    trainers = [p for p in live if _label(p, "role") == job.kind.trainers]
    assert not trainers, f"{job} is suspended and has {_names(trainers)}"
    assert len(live) <= 1, f"{job} has {_names(live)}"


def _check_complete(job: Job, manifest: Object, live: list[Object]) -> None:
    assert condition(manifest, "Complete")["status"] == "True", _describe(job, manifest)
    trainers = [p for p in live if _label(p, "role") == job.kind.trainers]
    assert not trainers, f"{job} is complete and has {_names(trainers)}"


def _is_live(pod: Object) -> bool:
    return pod["status"]["phase"] in ("Pending", "Running") and (
        "deletionTimestamp" not in pod["metadata"]
    )


def _owner(child: Object) -> str:
    owners = child["metadata"].get("ownerReferences", [])
    return str(owners[0]["uid"]) if owners and owners[0]["apiVersion"] == API_VERSION else ""


def _member(pod: Object) -> tuple[str, str]:
    labels = pod["metadata"]["labels"]
    which = labels.get("trainyard.dev/party", labels.get("trainyard.dev/index", ""))
    return labels["trainyard.dev/role"], which


def _label(pod: Object, name: str) -> str:
    return str(pod["metadata"]["labels"][f"trainyard.dev/{name}"])


def _names(items: list[Object]) -> list[str]:
    return [f"{i['metadata']['name']} ({i.get('status', {}).get('phase', '')})" for i in items]


def _describe(job: Job, manifest: Object) -> str:
    status = manifest.get("status", {})
    conditions = [
        f"{c['type']}={c['status']} {c['reason']} {c['message']}"
        for c in status.get("conditions", [])
    ]
    rest = {k: v for k, v in status.items() if k not in ("conditions", "failures")}
    workers = manifest["spec"].get("workers")
    return f"{job}, spec.workers {workers}: {rest}\n" + "\n".join(conditions)
