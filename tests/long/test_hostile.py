"""Hostile actors for five minutes per seed; `tests/integration/test_hostile.py` is shorter."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hostile.experiment import open_experiment
from tests.integration.conftest import open_control_plane

pytestmark = [pytest.mark.long(minutes=7), pytest.mark.timeout(1800)]

SECONDS = 300.0


@pytest.mark.parametrize("seed", [1301, 2502, 3703, 4904])
async def test_honest_jobs_do_not_notice_five_minutes_of_hostile_actors(
    seed: int, tmp_path: Path
) -> None:
    with open_control_plane("trainyard-hostile") as cluster:
        async with open_experiment(
            cluster.kubeconfig, tmp_path, seed, is_verbose=True
        ) as experiment:
            await experiment.run(SECONDS)
            assert experiment.starts.hostile
