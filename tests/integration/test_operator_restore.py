"""An administrator restores an older state of etcd: the operator follows it without a restart."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.conftest import CLUSTER, install_crds
from tests.support.apiserver import EtcdBackup
from tests.support.process import OperatorProcess
from tests.support.testbed import Testbed
from tests.support.waiting import eventually
from tools.localcluster import Cluster, ClusterOptions, open_cluster
from trainyard.cluster.client import KubeClient

pytestmark = pytest.mark.integration

CHANGES = 300
"""Versions that the operator has seen and the restored server has yet to reach."""


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    """A control plane of its own: the others' controllers would not notice either."""
    options = ClusterOptions(name=f"{CLUSTER}-restore", control_plane_only=True)
    opened = await asyncio.to_thread(open_cluster, options)
    with opened:
        await asyncio.to_thread(install_crds, opened)
        yield opened


def jobs_in(metrics: str) -> dict[str, int]:
    """Number of jobs by phase, as the operator knows them."""
    found = re.findall(r'trainyard_operator_jobs\{.*phase="(.*)"\} (\d+)', metrics)
    return {phase: int(count) for phase, count in found}


async def test_after_a_restore_the_operator_follows_the_older_state(
    cluster: Cluster, tmp_path: Path
) -> None:
    """It was blind to all changes until the versions had caught up, and to what had come back."""
    log = tmp_path / "operator.log"
    operator = OperatorProcess(cluster.kubeconfig, "default", log)
    async with await KubeClient.connect(cluster.kubeconfig) as client:
        testbed = Testbed(client, "restored")
        await testbed.open()
        await operator.start_until_ready()
        try:
            for name in ("kept", "deleted"):
                await testbed.submit(name)
                await testbed.wait_for_phase(name, "Waiting")
            backup = await asyncio.to_thread(EtcdBackup, cluster.kubeconfig, tmp_path / "etcd")
            await testbed.delete("deleted")
            await testbed.submit("new")
            path = testbed.job_path("kept")
            for number in range(CHANGES):
                await testbed.patch(path, {"metadata": {"annotations": {"n": str(number)}}})
            await testbed.wait_for_phase("new", "Waiting")
            await backup.restore()

            for name in ("kept", "deleted"):
                await testbed.patch(testbed.job_path(name), {"spec": {"suspend": True}})
                await testbed.wait_for_phase(name, "Suspended")

            async def forgotten() -> None:
                assert jobs_in(await asyncio.to_thread(operator.metrics)) == {"Suspended": 2}

            await eventually(forgotten)
            assert operator.poll() is None, operator.tail()
            assert "restored to an older state" in log.read_text()
        finally:
            await asyncio.to_thread(operator.stop)
