"""Waiting for the API server to serve our kinds."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from tests.support.dependencies import dependencies_of
from tests.support.fakeapi import FakeApi, Object
from tests.support.jobs import make_job
from trainyard.cluster.errors import ApiError
from trainyard.reconcile import resync
from trainyard.reconcile.resync import learn_priorities, until_served

GROUP = "/apis/trainyard.dev/v1alpha1"
BOTH: Object = {"resources": [{"name": "distributedjobs"}, {"name": "federatedjobs"}]}


class StartingApi(FakeApi):
    """An API server with one response after another."""

    def __init__(self, *answers: Object | ApiError) -> None:
        super().__init__()
        self.answers = list(answers)

    async def get(self, path: str, **_: Any) -> Object:
        assert path == GROUP
        answer = self.answers.pop(0)
        if isinstance(answer, ApiError):
            raise answer
        return answer


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resync, "SERVED_SECONDS", 0.0)


async def test_an_operator_that_starts_before_its_kinds_are_served_waits_and_names_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As when a chart's objects are all applied at once, or a CRD was left out of an upgrade."""
    api = StartingApi(
        ApiError(404, "NotFound", "404 page not found"),
        {"resources": [{"name": "distributedjobs"}]},
        BOTH,
    )
    with caplog.at_level(logging.WARNING):
        await until_served(api.client)
    assert api.answers == []
    first, second = (record.getMessage() for record in caplog.records)
    assert "does not know distributedjobs and federatedjobs of trainyard.dev yet" in first
    assert "does not know federatedjobs of trainyard.dev yet" in second
    assert second.endswith("install the CRDs: kubectl apply --server-side -f crds/")


@pytest.mark.parametrize(
    ("defaults", "expected"),
    [
        pytest.param((), 0, id="none"),
        pytest.param(("normal",), 5, id="one"),
        pytest.param(("normal", "low"), -3, id="the lowest of several"),
    ],
)
async def test_jobs_without_a_class_have_the_priority_of_the_clusters_default(
    defaults: tuple[str, ...], expected: int
) -> None:
    """It was 0, though their pods had that of the default."""
    api = FakeApi()
    for name, value in {"normal": 5, "low": -3, "high": 9}.items():
        api.objects[f"/apis/scheduling.k8s.io/v1/priorityclasses/{name}"] = {
            "metadata": {"name": name},
            "value": value,
            "globalDefault": name in defaults,
        }
    deps = dependencies_of(api, make_job({"priorityClassName": "high"}))
    await learn_priorities(deps)
    assert deps.cache.priorities == {"normal": 5, "low": -3, "high": 9, "": expected}


async def test_an_unreachable_api_server_is_waited_for() -> None:
    api = StartingApi(ApiError(0, "Unreachable", "refused"), BOTH)
    await until_served(api.client)
    assert api.answers == []


async def test_an_operator_without_rights_exits_with_the_message_of_the_server() -> None:
    with pytest.raises(ApiError, match="not allowed"):
        await until_served(StartingApi(ApiError(403, "Forbidden", "not allowed")).client)
