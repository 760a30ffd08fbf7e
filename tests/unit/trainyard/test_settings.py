"""kopf with our settings copies no object and writes none."""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterator
from typing import Any

import kopf
import pytest

from trainyard import settings


@pytest.fixture
def configured() -> kopf.OperatorSettings:
    made = kopf.OperatorSettings()
    settings.configure(made)
    return made


def test_nothing_is_copied_to_find_out_what_changed(
    configured: kopf.OperatorSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Any) -> None:
        raise AssertionError("an object was copied")

    monkeypatch.setattr(copy, "deepcopy", refuse)
    body = kopf.Body({"metadata": {"name": "a", "annotations": {"b": "c"}}, "spec": {"d": [1]}})
    base, progress = (
        configured.persistence.diffbase_storage,
        configured.persistence.progress_storage,
    )
    essence = base.build(body=body)
    assert base.fetch(body=body) is None
    assert progress.clear(essence=essence) is essence
    assert not essence


def test_nothing_is_ever_written_to_an_object(configured: kopf.OperatorSettings) -> None:
    body, patch = kopf.Body({"metadata": {}}), kopf.Patch()
    base, progress = (
        configured.persistence.diffbase_storage,
        configured.persistence.progress_storage,
    )
    base.store(body=body, patch=patch, essence=base.build(body=body))
    key: Any = "handler"
    record: Any = {"success": True}
    progress.store(key=key, record=record, body=body, patch=patch)
    progress.touch(body=body, patch=patch, value="now")
    progress.purge(key=key, body=body, patch=patch)
    assert progress.fetch(key=key, body=body) is None
    assert not patch


@pytest.fixture
def collector() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


def test_the_collector_runs_seldom_and_still_runs(collector: None) -> None:
    settings.spare_collector()
    assert gc.isenabled()
    assert gc.get_threshold()[0] == settings.COLLECT_AFTER
    assert gc.get_freeze_count() > 0
