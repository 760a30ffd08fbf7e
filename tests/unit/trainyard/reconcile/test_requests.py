"""Demands are worked out anew for jobs that changed, and for no other."""

from __future__ import annotations

import msgspec
import pytest

from tests.support.dependencies import dependencies_of
from tests.support.fakeapi import FakeApi
from tests.support.jobs import KEY, make_job
from trainyard.api.status import ScalingStatus
from trainyard.reconcile.dependencies import Dependencies
from trainyard.reconcile.requests import RequestCache


@pytest.fixture
def services() -> Dependencies:
    return dependencies_of(FakeApi(), make_job())


def test_a_job_that_did_not_change_keeps_its_demand(services: Dependencies) -> None:
    demands = RequestCache(services)
    first = demands.collect()[KEY]
    assert demands.collect()[KEY] is first


def test_a_changed_spec_a_decision_and_a_priority_are_seen(services: Dependencies) -> None:
    demands = RequestCache(services)
    assert demands.collect()[KEY].request.max_workers == 1
    services.cache.put_job(make_job({"workers": {"max": 3}}, resourceVersion="8"))
    assert demands.collect()[KEY].request.max_workers == 3
    state = services.states.jobs[KEY]
    assert isinstance(state.scaling, ScalingStatus)
    state.scaling = msgspec.structs.replace(state.scaling, desired=2, decided_at="")
    assert demands.collect()[KEY].request.admitted_workers == 2
    high = {"workers": {"max": 3}, "priorityClassName": "high"}
    services.cache.put_job(make_job(high, resourceVersion="9"))
    assert demands.collect()[KEY].request.priority == 0
    services.cache.priorities = {"high": 7}
    assert demands.collect()[KEY].request.priority == 7


def test_a_job_that_wants_nothing_any_more_is_dropped(services: Dependencies) -> None:
    demands = RequestCache(services)
    demands.collect()
    services.cache.put_job(make_job({"suspend": True}, resourceVersion="8"))
    assert demands.collect() == {}
    services.cache.put_job(make_job(resourceVersion="9"))
    assert KEY in demands.collect()
    services.cache.drop_job(KEY)
    assert demands.collect() == {}
