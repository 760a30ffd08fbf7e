"""Requests are recomputed for jobs that changed, and for no others."""

from __future__ import annotations

import msgspec
import pytest

from tests.support.dependencies import dependencies_of
from tests.support.fakeapi import FakeApi
from tests.support.jobs import KEY, NOW, make_job
from trainyard.api.refusals import Refusal
from trainyard.api.status import ScalingStatus
from trainyard.cluster.errors import ApiError
from trainyard.reconcile.dependencies import Dependencies
from trainyard.reconcile.requests import RequestCache


@pytest.fixture
def deps() -> Dependencies:
    return dependencies_of(FakeApi(), make_job())


def test_a_job_that_did_not_change_keeps_its_request(deps: Dependencies) -> None:
    cache = RequestCache(deps)
    first = cache.collect()[KEY]
    assert cache.collect()[KEY] is first


def test_a_new_spec_assignment_or_priority_makes_a_new_request(deps: Dependencies) -> None:
    cache = RequestCache(deps)
    assert cache.collect()[KEY].request.max_workers == 1
    deps.cache.put_job(make_job({"workers": {"max": 3}}, resourceVersion="8"))
    assert cache.collect()[KEY].request.max_workers == 3
    assignment = deps.job_states[KEY].assignment
    assert isinstance(assignment.value, ScalingStatus)
    assignment.value = msgspec.structs.replace(assignment.value, desired=2, decision_time="")
    assert cache.collect()[KEY].request.admitted_workers == 2
    high = {"workers": {"max": 3}, "priorityClassName": "high"}
    deps.cache.put_job(make_job(high, resourceVersion="9"))
    assert cache.collect()[KEY].request.priority == 0
    deps.cache.priorities = {"high": 7}
    assert cache.collect()[KEY].request.priority == 7


def test_a_job_that_wants_no_gpus_any_more_is_dropped(deps: Dependencies) -> None:
    cache = RequestCache(deps)
    cache.collect()
    deps.cache.put_job(make_job({"suspend": True}, resourceVersion="8"))
    assert cache.collect() == {}
    deps.cache.put_job(make_job(resourceVersion="9"))
    assert KEY in cache.collect()
    deps.cache.drop_job(KEY)
    assert cache.collect() == {}


@pytest.mark.parametrize(("status", "is_refusal"), [(403, True), (422, True), (500, False)])
def test_what_the_api_server_refuses_makes_a_new_request(
    deps: Dependencies, status: int, *, is_refusal: bool
) -> None:
    """Nothing told the scheduler that a quota left a job without its pods."""
    cache = RequestCache(deps)
    first = cache.collect()[KEY]
    creations = deps.job_states[KEY].refusals.creations
    creations.error, creations.since = ApiError(status, "", "exceeded quota"), NOW
    second = cache.collect()[KEY]
    expected = Refusal(message="exceeded quota", since=NOW) if is_refusal else None
    assert second.request.refusal == expected
    creations.error = ApiError(status, "", "exceeded quota")
    assert cache.collect()[KEY] is second, "the same answer again changes nothing"
    assert (second is first) is not is_refusal
