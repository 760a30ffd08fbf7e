"""The operator's clock: jumps of the machine's do not move it, and skew is noticed."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from email.utils import format_datetime

import pytest

from tests.support.jobs import NOW
from trainyard.cluster.clock import MAX_SKEW, SETTLE_SECONDS, SteadyClock

DAY = timedelta(days=1)


class Machine:
    """A machine whose clock a test sets, and an API server with a clock of its own."""

    def __init__(self) -> None:
        self.wall = self.server = NOW
        self.elapsed = 0.0
        self.clock = SteadyClock(lambda: self.wall, lambda: self.elapsed)

    def pass_seconds(self, seconds: float) -> None:
        self.elapsed += seconds
        self.wall += timedelta(seconds=seconds)
        self.server += timedelta(seconds=seconds)

    def answer(self) -> datetime:
        """An answer of the API server arrives; returns what the clock then says."""
        self.clock.observe(format_datetime(self.server, usegmt=True))
        return self.clock()


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.mark.parametrize("jump", [DAY, -DAY])
def test_a_jump_of_the_machines_clock_changes_nothing(machine: Machine, jump: timedelta) -> None:
    """It failed jobs by their deadlines and deleted them by their times to live."""
    machine.wall += jump
    machine.pass_seconds(5)
    assert machine.clock() == NOW + timedelta(seconds=5)
    assert machine.answer() == NOW + timedelta(seconds=5)
    assert machine.clock.is_trusted


@pytest.mark.parametrize("jump", [DAY, -DAY, MAX_SKEW + timedelta(seconds=2)])
def test_a_clock_that_differs_from_the_servers_is_not_trusted_and_says_so_once(
    machine: Machine, jump: timedelta, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    machine.server += jump
    for _ in range(3):
        machine.answer()
        machine.pass_seconds(1)
    assert not machine.clock.is_trusted
    assert len(caplog.records) == 1
    assert "synchronize both" in caplog.text
    machine.server -= jump
    machine.answer()
    assert machine.clock.is_trusted
    assert "agree again" in caplog.text


@pytest.mark.parametrize("skew", [MAX_SKEW, -MAX_SKEW, timedelta(seconds=3)])
def test_a_small_skew_is_tolerated(machine: Machine, skew: timedelta) -> None:
    machine.server += skew
    machine.answer()
    assert machine.clock.is_trusted


def test_a_machine_whose_clock_was_wrong_at_the_start_is_corrected() -> None:
    machine = Machine()
    machine.server += DAY
    machine.answer()
    assert not machine.clock.is_trusted
    machine.pass_seconds(1)
    machine.wall += DAY
    assert machine.answer() == machine.server
    assert not machine.clock.is_trusted, "who was wrong is not known yet"
    machine.pass_seconds(SETTLE_SECONDS)
    machine.answer()
    assert machine.clock.is_trusted


def test_clocks_that_jump_together_are_not_trusted_at_once(machine: Machine) -> None:
    """As on a single machine: a wrong time is mostly corrected within minutes."""
    for jump in (DAY, -DAY):
        machine.wall += jump
        machine.server += jump
        machine.pass_seconds(1)
        assert machine.answer() == machine.wall
        assert not machine.clock.is_trusted
    machine.pass_seconds(SETTLE_SECONDS)
    assert machine.clock.is_trusted


@pytest.mark.parametrize("date", ["", "yesterday", "Wed, 99 Foo 2026 07:28:00 GMT"])
def test_a_date_that_is_none_is_ignored(machine: Machine, date: str) -> None:
    machine.clock.observe(date)
    assert machine.clock.is_trusted
