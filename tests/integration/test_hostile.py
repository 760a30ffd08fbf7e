"""A short run of `tests/hostile`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.hostile.actors import ACTORS
from tests.hostile.experiment import open_experiment
from tools.localcluster import Cluster

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

SEED = int(os.environ.get("TRAINYARD_HOSTILE_SEED", "20261129"))
SECONDS = float(os.environ.get("TRAINYARD_HOSTILE_SECONDS", "90"))


async def test_honest_jobs_do_not_notice_hostile_users_parties_nodes_and_disks(
    api_cluster: Cluster, collected: None, tmp_path: Path
) -> None:
    async with open_experiment(
        api_cluster.kubeconfig, tmp_path, SEED, is_verbose=True
    ) as experiment:
        await experiment.run(SECONDS)
        print(experiment.summary())
        # A schedule without attacks, or without honest jobs beside them, proves nothing.
        counts = experiment.history.counts
        for actor in ACTORS:
            assert counts[actor.name], f"seed {SEED} has no {actor.name}: {dict(counts)}"
        assert len(experiment.starts.hostile) > 10
