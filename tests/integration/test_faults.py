"""A short run of `tests/faults`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.faults.experiment import open_experiment
from tests.faults.fault_injector import NODE_FAULTS, REPLICA_FAULTS
from tools.localcluster import Cluster

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

SEED = int(os.environ.get("TRAINYARD_FAULTS_SEED", "20261122"))
SECONDS = float(os.environ.get("TRAINYARD_FAULTS_SECONDS", "130"))


async def test_every_job_reaches_its_final_state_after_random_faults(
    api_cluster: Cluster, collected: None, tmp_path: Path
) -> None:
    async with open_experiment(
        api_cluster.kubeconfig, tmp_path, SEED, is_verbose=True
    ) as experiment:
        await experiment.run(SECONDS)
        counts = experiment.history.counts
        # A schedule without faults proves nothing.
        for fault in (*REPLICA_FAULTS, *NODE_FAULTS):
            assert counts[fault], f"seed {SEED} has no fault of the kind {fault}: {dict(counts)}"
        assert counts["submit"] > 10
