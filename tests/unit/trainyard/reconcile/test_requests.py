"""Demands are worked out anew for jobs that changed, and for no other."""

from __future__ import annotations

import msgspec
import pytest

from tests.support.dependencies import services_of
from tests.support.fakeapi import FakeApi
from tests.support.jobs import KEY, make_job
from trainyard.api.status import ScalingStatus
from trainyard.reconcile.dependencies import Services
from trainyard.reconcile.requests import Demands


@pytest.fixture
def services() -> Services:
    return services_of(FakeApi(), make_job())


def test_a_job_that_did_not_change_keeps_its_demand(services: Services) -> None:
    demands = Demands(services)
    first = demands.collect()[KEY]
    assert demands.collect()[KEY] is first


def test_a_changed_spec_a_decision_and_a_priority_are_seen(services: Services) -> None:
    demands = Demands(services)
    assert demands.collect()[KEY].demand.max_workers == 1
    services.mirror.put_job(make_job({"workers": {"max": 3}}, resourceVersion="8"))
    assert demands.collect()[KEY].demand.max_workers == 3
    state = services.memory.jobs[KEY]
    assert isinstance(state.scaling, ScalingStatus)
    state.scaling = msgspec.structs.replace(state.scaling, desired=2, decided_at="")
    assert demands.collect()[KEY].demand.admitted_workers == 2
    high = {"workers": {"max": 3}, "priorityClassName": "high"}
    services.mirror.put_job(make_job(high, resourceVersion="9"))
    assert demands.collect()[KEY].demand.priority == 0
    services.mirror.priorities = {"high": 7}
    assert demands.collect()[KEY].demand.priority == 7


def test_a_job_that_wants_nothing_any_more_is_dropped(services: Services) -> None:
    demands = Demands(services)
    demands.collect()
    services.mirror.put_job(make_job({"suspend": True}, resourceVersion="8"))
    assert demands.collect() == {}
    services.mirror.put_job(make_job(resourceVersion="9"))
    assert KEY in demands.collect()
    services.mirror.drop_job(KEY)
    assert demands.collect() == {}
