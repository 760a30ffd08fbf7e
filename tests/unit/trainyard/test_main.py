"""How the operator's process ends."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from trainyard import __main__ as entry
from trainyard import logs
from trainyard.cluster.installations import SecondInstallationError
from trainyard.cluster.lease import LeadershipLost


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> typer.Typer:
    """The command line, whose logging is the test's own."""
    monkeypatch.setattr(logs, "configure", lambda *_: None)
    made = typer.Typer()
    made.command()(entry.main)
    return made


async def lose(*_: Any) -> None:
    """An operator whose tasks all find that the Lease is another's."""
    raise BaseExceptionGroup(
        "two tasks",
        [LeadershipLost("the Lease a/b was taken by pod-2"), LeadershipLost("it is not ours")],
    )


def test_losing_leadership_is_one_line_and_exit_code_3(
    app: typer.Typer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entry, "operate", lose)
    with caplog.at_level(logging.INFO):
        result = CliRunner().invoke(app, ["--kubeconfig", "/nowhere"])
    assert result.exit_code == 3
    [record] = [r for r in caplog.records if r.name.startswith("trainyard")]
    assert (record.levelname, record.getMessage()) == ("ERROR", "lost leadership, exiting")
    assert vars(record)["cause"] == "the Lease a/b was taken by pod-2"


async def meet_another(*_: Any) -> None:
    """An operator that finds another one which serves the same."""
    raise ExceptionGroup("a task", [SecondInstallationError("the installation a.b serves team")])


def test_a_second_installation_is_one_line_and_exit_code_4(
    app: typer.Typer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entry, "operate", meet_another)
    with caplog.at_level(logging.INFO):
        result = CliRunner().invoke(app, ["--kubeconfig", "/nowhere"])
    assert result.exit_code == 4
    [record] = [r for r in caplog.records if r.name.startswith("trainyard")]
    assert record.getMessage() == "refusing to act as a second installation"
    assert vars(record)["cause"] == "the installation a.b serves team"


def test_an_unknown_log_format_is_rejected_with_the_valid_ones(app: typer.Typer) -> None:
    result = CliRunner().invoke(app, ["--log-format", "xml"])
    assert result.exit_code == 2
    assert "json" in result.output
    assert "text" in result.output
