"""Three minutes of faults: see `tests/faults`, which runs them for longer."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.faults.drill import prepare
from tools.localcluster import Cluster

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

SEED = int(os.environ.get("TRAINYARD_FAULTS_SEED", "20261122"))
SECONDS = float(os.environ.get("TRAINYARD_FAULTS_SECONDS", "130"))


async def test_whatever_fails_every_job_reaches_its_end(
    api_cluster: Cluster, collected: None, tmp_path: Path
) -> None:
    async with prepare(api_cluster.kubeconfig, tmp_path, SEED, is_loud=True) as drill:
        await drill.run(SECONDS)
        counts = drill.chronicle.counts
        # A schedule in which nothing happens proves nothing.
        for what in ("kill", "pause", "cut", "stall", "reset", "stop", "remove", "silence"):
            assert counts[what], f"seed {SEED} has no fault of the kind {what}: {dict(counts)}"
        assert counts["submit"] > 10
