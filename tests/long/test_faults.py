"""Random faults for five minutes per seed; `tests/integration/test_faults.py` is shorter."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.experiment import open_experiment
from tests.integration.conftest import open_control_plane

pytestmark = [pytest.mark.long(minutes=7), pytest.mark.timeout(1800)]

SECONDS = 300.0


@pytest.mark.parametrize("seed", [5200, 6100, 7001, 8008])
async def test_every_job_reaches_its_final_state_after_five_minutes_of_random_faults(
    seed: int, tmp_path: Path
) -> None:
    with open_control_plane("trainyard-faults") as cluster:
        async with open_experiment(
            cluster.kubeconfig, tmp_path, seed, is_verbose=True
        ) as experiment:
            await experiment.run(SECONDS)
            assert not experiment.history.violations
