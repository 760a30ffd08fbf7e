"""Two jobs of one name: what an operator does with the second, and when the first goes."""

from __future__ import annotations

from typing import Any

from tests.support.dependencies import dependencies_of
from tests.support.fakeapi import FakeApi
from tests.support.federations import FEDERATION, make_federation
from tests.support.jobs import KEY, ago, at, coordinator, make_job, worker
from trainyard.api.names import Key
from trainyard.api.pods import Pod
from trainyard.reconcile.controller import Controller
from trainyard.reconcile.dependencies import Dependencies
from trainyard.reconcile.job import reconcile
from trainyard.reconcile.namesakes import name_taken
from trainyard.reconcile.requests import RequestCache

HELD = {"desired": 1, "recommended": 1, "reason": "Admitted", "decisionTime": at()}
SECOND_UID = "uid-of-the-second"


def second(**status: Any) -> Any:
    return make_federation({}, status, uid=SECOND_UID, creationTimestamp=at(ago(minutes=5)))


class Written(FakeApi):
    """Keeps the statuses that are written, by kind."""

    def __init__(self) -> None:
        super().__init__()
        self.conditions: dict[str, dict[str, tuple[str, str]]] = {}

    async def update(self, path: str, body: Any, **rest: Any) -> Any:
        self.conditions[body["kind"]] = {
            c["type"]: (c["status"], c["reason"]) for c in body["status"]["conditions"]
        }
        return await super().update(path, body, **rest)


def wanted(deps: Dependencies) -> set[Key]:
    return set(RequestCache(deps).collect())


async def test_the_second_is_refused_by_name_and_asks_for_nothing() -> None:
    api = Written()
    deps = dependencies_of(api, make_job(), second())
    assert wanted(deps) == {KEY}
    outcome = await reconcile(deps, FEDERATION)
    assert not outcome.schedule
    assert api.conditions["FederatedJob"]["Accepted"] == ("False", "NameTaken")
    assert not any("secrets" in path or "pods" in path for _, path in api.requests)


async def test_the_first_goes_on_beside_it() -> None:
    api = Written()
    deps = dependencies_of(api, make_job({}, {"scaling": HELD, "startTime": at()}), second())
    for pod in (coordinator(), worker()):
        deps.cache.put_pod(pod)
    await reconcile(deps, KEY)
    assert api.conditions["DistributedJob"]["Accepted"] == ("True", "Valid")


def test_a_job_that_was_just_admitted_has_the_name_before_its_status_says_so() -> None:
    """Its watch was faster than that of the other kind."""
    deps = dependencies_of(FakeApi(), second())
    state = deps.job_state(deps.cache.jobs[FEDERATION])
    state.assignment.value = second(admission={"parties": ["ann"]}).assignment
    older = make_job()
    deps.cache.put_job(older)
    assert name_taken(deps, older) is not None
    assert name_taken(deps, deps.cache.jobs[FEDERATION]) is None


def test_the_second_begins_once_the_first_is_gone_with_its_pods() -> None:
    first = make_job()
    deps = dependencies_of(FakeApi(), first, second())
    deps.cache.put_pod(worker())
    deps.cache.drop_job(KEY, first.uid)
    taken = name_taken(deps, deps.cache.jobs[FEDERATION])
    assert taken is not None
    assert "digits-worker-0-1 has not ended yet" in taken.message
    assert wanted(deps) == set()
    deps.cache.pods.remove(next(iter(deps.cache.pods)), worker().uid)
    assert wanted(deps) == {FEDERATION}


async def test_what_happens_to_the_first_is_an_event_for_the_second() -> None:
    deps = dependencies_of(FakeApi(), make_job(), second())
    controller = Controller(deps)
    controller._is_active = True
    controller.pod_changed(worker(), None)
    assert {KEY, FEDERATION} <= set(controller.queue._queued)


def orphan(**fields: Any) -> Pod:
    """What a deletion with `--cascade=orphan` leaves."""
    return worker(owner_uid="", **fields)


def test_a_job_waits_for_the_end_of_what_an_earlier_one_left_without_an_owner() -> None:
    """Its workers would find the earlier coordinator under the name of theirs."""
    deps = dependencies_of(FakeApi(), make_job())
    deps.cache.put_pod(orphan())
    taken = name_taken(deps, deps.cache.jobs[KEY])
    assert taken is not None
    assert "Pod digits-worker-0-1 has the labels of this job and no owner" in taken.message
    assert wanted(deps) == set()
    deps.cache.put_pod(orphan(resource_version=2, is_deleting=True))
    assert wanted(deps) == {KEY}


def test_pods_that_an_earlier_job_owns_are_collected_and_nobody_waits_for_them() -> None:
    deps = dependencies_of(FakeApi(), make_job())
    deps.cache.put_pod(worker(owner_uid="an earlier job"))
    assert wanted(deps) == {KEY}


async def test_a_pod_without_job_and_owner_has_one_warning(caplog: Any) -> None:
    api = FakeApi()
    deps = dependencies_of(api)
    for pod in (orphan(), worker(1, owner_uid="a job that is being collected")):
        deps.cache.put_pod(pod)
    for _ in range(2):
        await reconcile(deps, KEY)
    [event] = [item for path, item in api.objects.items() if "/events/" in path]
    assert (event["type"], event["reason"]) == ("Warning", "Orphaned")
    assert event["involvedObject"]["name"] == "digits-worker-0-1"
    assert "kubectl delete pod --namespace team digits-worker-0-1" in event["message"]
    assert [r.message for r in caplog.records if r.levelname == "WARNING"] == ["pod without a job"]
    assert not any(method == "DELETE" for method, _ in api.requests)
