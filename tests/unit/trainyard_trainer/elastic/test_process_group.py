"""Broken process groups: the threads that wait for them are counted, and have an end."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import pytest
import torch

from trainyard_trainer.elastic import process_group
from trainyard_trainer.elastic.process_group import TorchProcessGroup

ENOUGH = 3


class Hanging:
    """A group whose destructor waits for a pending operation."""

    def __init__(self, finished: threading.Event) -> None:
        self._finished = finished

    def rank(self) -> int:
        return 0

    def size(self) -> int:
        return 2

    def __del__(self) -> None:
        self._finished.wait(30)


@pytest.fixture
def finished(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Set at the end, so that no thread outlives the test."""
    monkeypatch.setattr(process_group, "MAX_REAPERS", ENOUGH)
    event = threading.Event()
    yield event
    event.set()
    for thread in threading.enumerate():
        if thread.name == process_group.REAPER:
            thread.join(10)


def broken(finished: threading.Event) -> TorchProcessGroup:
    return TorchProcessGroup(Hanging(finished), torch.device("cpu"), lambda: None)


def test_the_process_ends_when_too_many_broken_groups_are_waited_for(
    finished: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for _ in range(ENOUGH - 1):
        broken(finished).abort()
    assert "2 broken process groups still wait" in caplog.text
    last = broken(finished)
    with pytest.raises(RuntimeError, match="3 broken process groups hold their connections"):
        last.abort()


def test_groups_that_are_destroyed_at_once_are_not_counted(finished: threading.Event) -> None:
    finished.set()
    for _ in range(3 * ENOUGH):
        broken(finished).abort()
        for thread in threading.enumerate():
            if thread.name == process_group.REAPER:
                thread.join(10)
