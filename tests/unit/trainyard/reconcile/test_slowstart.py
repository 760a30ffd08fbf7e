"""Slow start: what is refused costs few requests, and one bad pod holds back no other for long."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from datetime import timedelta
from functools import partial
from itertools import pairwise

import pytest

from tests.support.dependencies import dependencies_of
from tests.support.fakeapi import FakeApi, Object
from tests.support.jobs import KEY, NOW, at, job_pods, make_job
from trainyard.cluster.errors import ApiError
from trainyard.lifecycle.desired import DesiredPods
from trainyard.lifecycle.diff import pod_actions
from trainyard.reconcile.job import reconcile
from trainyard.reconcile.slowstart import AT_ONCE, MAX_PAUSE, Refusals, Requests, slow_start


class Server:
    """Records requests by name and refuses some of them."""

    def __init__(self, refused: Collection[int] = (), room: int = 10**6) -> None:
        self.refused, self.room = refused, room
        self.tried: list[int] = []
        self.in_flight = self.most_in_flight = 0

    def requests(self, *names: int) -> Requests:
        return {name: partial(self._send, name) for name in names}

    async def _send(self, name: int) -> int:
        self.tried.append(name)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await asyncio.sleep(0)
        self.in_flight -= 1
        if name in self.refused or self.room <= 0:
            raise ApiError(403, "Forbidden", f"{name} exceeds the quota")
        self.room -= 1
        return name


async def test_everything_that_succeeds_is_sent_in_batches_that_double() -> None:
    server = Server()
    attempt = await slow_start(server.requests(*range(100)))
    assert (attempt.results, attempt.refused) == ([*range(100)], {})
    assert server.most_in_flight == 37  # after 1 + 2 + 4 + 8 + 16 + 32
    assert server.tried == [*range(100)]


async def test_a_few_are_sent_at_once() -> None:
    server = Server()
    await slow_start(server.requests(*range(AT_ONCE)))
    assert server.most_in_flight == AT_ONCE


async def test_nothing_follows_a_refusal() -> None:
    server = Server(room=0)
    attempt = await slow_start(server.requests(*range(4097)))
    assert server.tried == [0]
    assert list(attempt.refused) == [0]


async def test_what_a_quota_leaves_is_used() -> None:
    server = Server(room=9)
    attempt = await slow_start(server.requests(*range(64)))
    assert attempt.results == [*range(9)]
    assert len(server.tried) == 15


async def test_an_error_that_is_no_answer_of_the_server_is_raised() -> None:
    async def broken() -> None:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        await slow_start({"a": broken})


async def test_refused_requests_pause_for_longer_and_longer() -> None:
    server, refusals, now = Server(room=0), Refusals(), NOW
    tried_at = []
    for _ in range(600):  # an event each second, for ten minutes
        before = len(server.tried)
        await refusals.attempt(server.requests(*range(56)), 1, now)
        if len(server.tried) > before:
            tried_at.append((now - NOW).total_seconds())
        now += timedelta(seconds=1)
    assert tried_at[:6] == [0, 1, 2, 4, 8, 16]
    assert len(server.tried) == len(tried_at) < 20
    assert max(b - a for a, b in pairwise(tried_at)) <= 60
    assert MAX_PAUSE.total_seconds() == 60


async def test_a_success_ends_the_pause_and_its_growth() -> None:
    server, refusals = Server(room=0), Refusals()
    await refusals.attempt(server.requests(1), 1, NOW)
    first = refusals.retry_at
    assert first is not None
    assert refusals.error is not None
    server.room = 1
    await refusals.attempt(server.requests(1), 1, first)
    assert [refusals.error, refusals.retry_at] == [None, None]
    server.room = 0
    await refusals.attempt(server.requests(1), 1, NOW)
    assert refusals.retry_at == first


async def test_a_changed_spec_is_tried_at_once() -> None:
    server, refusals = Server(refused=[1]), Refusals()
    await refusals.attempt(server.requests(1), 1, NOW)
    server.refused = []
    await refusals.attempt(server.requests(1), 1, NOW)
    assert server.tried == [1]
    await refusals.attempt(server.requests(1), 2, NOW)
    assert (server.tried, refusals.error) == ([1, 1], None)


async def test_a_refusal_is_forgotten_once_nothing_is_left_to_send() -> None:
    refusals = Refusals()
    await refusals.attempt(Server(room=0).requests(1), 1, NOW)
    await refusals.attempt({}, 1, NOW)
    assert refusals.error is None


async def test_one_pod_that_is_always_refused_holds_back_no_other() -> None:
    """Such as the pod of a party that asks for more memory than its namespace allows."""
    server, refusals, now = Server(refused=[0]), Refusals(), NOW
    missing = {*range(8)}
    for _ in range(3):
        attempt = await refusals.attempt(server.requests(*sorted(missing)), 1, now)
        missing -= set(attempt.results)
        now = refusals.retry_at or now
    assert missing == {0}


class FullApi(FakeApi):
    """Has no quota left for pods."""

    def __init__(self) -> None:
        super().__init__()
        self.pods = 0

    async def create(self, path: str, body: Object) -> Object:
        if path.endswith("/pods"):
            self.pods += 1
            raise ApiError(403, "Forbidden", "exceeded quota: pods")
        return await super().create(path, body)


async def test_a_full_quota_costs_a_job_of_4096_workers_one_request() -> None:
    api = FullApi()
    held = {"desired": 4096, "recommended": 4096, "reason": "Admitted", "decisionTime": at()}
    job = make_job({"workers": {"min": 1, "max": 4096, "gpus": 0}}, {"scaling": held})
    now = NOW
    deps = dependencies_of(api, job, clock=lambda: now)
    result = await reconcile(deps, KEY)
    assert api.pods == 1
    assert result.refusal is not None
    assert result.requeue_after == 0.5
    for _ in range(100):  # events of other pods, reports and statuses
        result = await reconcile(deps, KEY)
    assert (api.pods, result.refusal) == (1, None)
    [degraded] = [c for c in deps.cache.jobs[KEY].status.conditions if c.type == "Degraded"]
    assert (degraded.status, degraded.reason) == ("True", "ChildRefused")
    now += timedelta(seconds=0.5)
    await reconcile(deps, KEY)
    assert api.pods == 2


async def test_a_pod_that_conflicts_with_a_busy_quota_is_not_read() -> None:
    """It was: the status then named a pod that did not exist."""

    class BusyApi(FullApi):
        async def create(self, path: str, body: Object) -> Object:
            if path.endswith("/pods"):
                raise ApiError(409, "Conflict", 'Operation cannot be fulfilled on "quota"')
            return await super().create(path, body)

    api = BusyApi()
    held = {"desired": 1, "recommended": 1, "reason": "Admitted", "decisionTime": at()}
    deps = dependencies_of(api, make_job({}, {"scaling": held}))
    result = await reconcile(deps, KEY)
    assert result.refusal is not None
    assert "cannot be fulfilled" in result.refusal.message
    assert [path for method, path in api.requests if method == "GET" and "/pods/" in path] == []


def test_a_coordinator_is_created_before_its_workers() -> None:
    """The first batch is one pod, and nothing trains without that one."""
    desired = DesiredPods(coordinator=True, members=range(3))
    actions = pod_actions(desired, job_pods(), frozenset(), 0, NOW)
    assert [str(pod.role) for pod in actions.create] == ["coordinator", *["worker"] * 3]


async def test_refusals_in_a_row_have_one_beginning() -> None:
    server, refusals = Server(room=0), Refusals()
    for minute, generation, since in [(0, 1, 0), (2, 1, 0), (4, 2, 4)]:
        now = NOW + timedelta(minutes=minute)
        await refusals.attempt(server.requests(0), generation, now)
        assert refusals.since == NOW + timedelta(minutes=since)
    server.room = 1
    await refusals.attempt(server.requests(0), 2, NOW + timedelta(minutes=6))
    assert refusals.since is None
