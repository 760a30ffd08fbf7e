"""What the demo tells people to type at its end."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import pytest

from tests.demo.__main__ import further_commands
from tools.localcluster import Cluster


def test_the_commands_name_a_kubectl_that_the_machine_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    cluster = Mock(spec=Cluster, kubeconfig=Path("/k"), kubectl=Path("/cache/kubectl"))
    assert further_commands(cluster)[1] == "/cache/kubectl describe dj mnist"
    (tmp_path / "kubectl").write_text("#!/bin/sh")
    (tmp_path / "kubectl").chmod(0o755)
    assert further_commands(cluster)[1] == "kubectl describe dj mnist"
