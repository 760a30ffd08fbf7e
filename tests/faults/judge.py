"""When all faults are over: every job at its right end, no orphans, statuses that are true."""

from __future__ import annotations

from tests.faults.users import Job, Users
from tests.support.manifests import Object
from tests.support.testbed import Testbed, condition, phase
from trainyard.api.names import API_VERSION
from trainyard.cluster.client import ApiError, collection


class Judge:
    """Looks at the cluster on a connection of its own; every check raises AssertionError."""

    def __init__(self, testbed: Testbed, users: Users, operator_namespace: str) -> None:
        self._testbed, self._users = testbed, users
        self._operator_namespace = operator_namespace

    async def all_is_right(self) -> None:
        """Everything, in one look."""
        pods = await self._testbed.pods()
        for job in self._users.jobs:
            ours = [p for p in pods if _owner(p) == job.uid]
            if job.wanted == "deleted":
                assert not ours, f"{job} is deleted and has {_names(ours)}"
                continue
            found = await self._get(job)
            live = [p for p in ours if _is_live(p)]
            match job.wanted:
                case "Running":
                    _runs(job, found, live)
                case "Suspended":
                    _rests(job, found, live)
                case "Complete":
                    _is_complete(job, found, live)
        await self._nothing_is_orphaned(pods)

    async def _get(self, job: Job) -> Object:
        try:
            found = await self._testbed.client.get(self._users.path(job))
        except ApiError as error:
            raise AssertionError(f"{job}: {error}") from None
        assert found["metadata"]["uid"] == job.uid, f"{job} is another's"
        return found

    async def _nothing_is_orphaned(self, pods: list[Object]) -> None:
        alive = {job.uid for job in self._users.alive()}
        for plural in ("services", "secrets", "pods"):
            items = pods if plural == "pods" else await self._list(self._testbed.path(plural))
            lost = [p for p in items if _owner(p) and _owner(p) not in alive]
            assert not lost, f"{plural} of jobs that are gone: {_names(lost)}"
        path = collection("v1", "secrets", self._operator_namespace)
        authorities = {
            s["metadata"]["annotations"]["trainyard.dev/job-uid"]
            for s in await self._list(
                path, label_selector=f"trainyard.dev/namespace={self._testbed.namespace}"
            )
        }
        assert authorities <= alive, f"authorities of jobs that are gone: {authorities - alive}"
        running = {job.uid for job in self._users.alive("Running")}
        assert running <= authorities, f"jobs without an authority: {running - authorities}"

    async def _list(self, path: str, **selectors: str) -> list[Object]:
        return [item async for item in self._testbed.client.list_all(path, **selectors)]


def _runs(job: Job, found: Object, live: list[Object]) -> None:
    assert phase(found) == "Running", _told(job, found)
    status = found["status"]
    assert status["observedGeneration"] == found["metadata"]["generation"], _told(job, found)
    places = sorted(_place(p) for p in live)
    assert places == sorted(job.kind.members(job.size)), f"{job} has {_names(live)}"
    assert {p["status"]["phase"] for p in live} == {"Running"}, f"{job}: not all run"
    terms = {int(_label(p, "attempt")) for p in live if _label(p, "role") == "coordinator"}
    assert terms == {status["term"]}, f"{job}: coordinators {terms}, status {status['term']}"
    for type_ in ("Running", "Admitted"):
        assert condition(found, type_)["status"] == "True", _told(job, found)
    if "scaling" in status:
        seen = (status["scaling"]["current"], status["scaling"]["desired"])
        assert seen == (job.size, job.size), _told(job, found)


def _rests(job: Job, found: Object, live: list[Object]) -> None:
    assert phase(found) == "Suspended", _told(job, found)
    trainers = [p for p in live if _label(p, "role") == job.kind.trainers]
    assert not trainers, f"{job} is suspended and has {_names(trainers)}"
    assert len(live) <= 1, f"{job} has {_names(live)}"


def _is_complete(job: Job, found: Object, live: list[Object]) -> None:
    assert condition(found, "Complete")["status"] == "True", _told(job, found)
    trainers = [p for p in live if _label(p, "role") == job.kind.trainers]
    assert not trainers, f"{job} is complete and has {_names(trainers)}"


def _is_live(pod: Object) -> bool:
    return pod["status"]["phase"] in ("Pending", "Running") and (
        "deletionTimestamp" not in pod["metadata"]
    )


def _owner(child: Object) -> str:
    owners = child["metadata"].get("ownerReferences", [])
    return str(owners[0]["uid"]) if owners and owners[0]["apiVersion"] == API_VERSION else ""


def _place(pod: Object) -> tuple[str, str]:
    labels = pod["metadata"]["labels"]
    which = labels.get("trainyard.dev/party", labels.get("trainyard.dev/index", ""))
    return labels["trainyard.dev/role"], which


def _label(pod: Object, name: str) -> str:
    return str(pod["metadata"]["labels"][f"trainyard.dev/{name}"])


def _names(items: list[Object]) -> list[str]:
    return [f"{i['metadata']['name']} ({i.get('status', {}).get('phase', '')})" for i in items]


def _told(job: Job, found: Object) -> str:
    status = found.get("status", {})
    told = [
        f"{c['type']}={c['status']} {c['reason']} {c['message']}"
        for c in status.get("conditions", [])
    ]
    shown = {k: v for k, v in status.items() if k not in ("conditions", "failures")}
    return f"{job}, spec {found['spec'].get('workers')}: {shown}\n" + "\n".join(told)
