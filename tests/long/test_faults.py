"""Faults for five minutes a seed; `tests/integration/test_faults.py` runs two minutes of one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.drill import prepare
from tests.integration.conftest import install_crds
from tools.localcluster import ClusterOptions, open_cluster

pytestmark = [pytest.mark.long(minutes=7), pytest.mark.timeout(1800)]

SECONDS = 300.0


@pytest.mark.parametrize("seed", [5200, 6100, 7001, 8008])
async def test_whatever_fails_for_five_minutes_every_job_reaches_its_end(
    seed: int, tmp_path: Path
) -> None:
    options = ClusterOptions(name="trainyard-faults", control_plane_only=True)
    with open_cluster(options) as cluster:
        install_crds(cluster)
        async with prepare(cluster.kubeconfig, tmp_path, seed, is_loud=True) as drill:
            await drill.run(SECONDS)
            assert not drill.chronicle.violations
