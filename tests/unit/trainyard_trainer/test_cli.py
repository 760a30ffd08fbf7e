"""The trainer's command line where something that it needs is not installed."""

from __future__ import annotations

import sys

import pytest
from typer.testing import CliRunner

from trainyard_trainer import cli


@pytest.mark.parametrize("command", ["run", "federate"])
def test_a_local_run_without_the_libraries_says_which_are_missing(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "EXTRA", ("sys", "no_such_library"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    result = CliRunner().invoke(cli.app, [command, "my_tasks:Sines"])
    assert result.exit_code == 1
    assert result.output == (
        "error: no_such_library: no such module here; "
        "install the package with its extra, trainyard-operator[trainer]\n"
    )
