"""A flood of metrics from one tenant's coordinators, beside another tenant's honest one."""

from __future__ import annotations

import contextlib
import re
import uuid
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tests.support.coordinators import (
    CoordinatorKubelet,
    PlayedCoordinator,
    bomb,
    constant,
    counting,
)
from tests.support.replicas import lease, open_replica, wait_until_leads
from tests.support.testbed import Testbed, condition, scaling, training
from tests.support.waiting import eventually
from tools.localcluster import Cluster
from trainyard.cluster.client import KubeClient
from trainyard.cluster.coordinator import MAX_ANSWER_BYTES

pytestmark = pytest.mark.integration

INTERVAL = timedelta(seconds=1)
OPTIONS = ("--reach=direct", f"--scrape-interval={INTERVAL.seconds}s")
HOSTILE = 48
ROUNDS = 5
"""Scrapes of each hostile coordinator."""
OK_SCRAPES = re.compile(r'^trainyard_operator_scrapes_total\{outcome="ok"\} (\S+)$', re.MULTILINE)


@contextlib.asynccontextmanager
async def opened(kube: KubeClient, name: str) -> AsyncIterator[Testbed]:
    """Another tenant's namespace, with a node of its own."""
    created = Testbed(kube, f"{name}-{uuid.uuid4().hex[:8]}")
    await created.open()
    try:
        await created.add_nodes(0, is_attended=False)
        yield created
    finally:
        await created.close()


async def test_floods_of_metrics_cost_neither_the_lease_nor_others_figures(
    api_cluster: Cluster, kube: KubeClient, operator_namespace: str, tmp_path: Path
) -> None:
    """They held the event loop for longer than the Lease lasts, and all replicas one by one."""
    flood = PlayedCoordinator(constant(bomb(MAX_ANSWER_BYTES)))
    hostile = {f"flood-{number}": flood for number in range(HOSTILE)}
    honest = counting()
    async with contextlib.AsyncExitStack() as stack:
        replica = await stack.enter_async_context(
            open_replica(api_cluster.kubeconfig, operator_namespace, tmp_path, "one", *OPTIONS)
        )
        team = await stack.enter_async_context(opened(kube, "team"))
        tenant = await stack.enter_async_context(opened(kube, "tenant"))
        await stack.enter_async_context(CoordinatorKubelet(team, {"honest": honest}))
        await stack.enter_async_context(CoordinatorKubelet(tenant, hostile))
        await replica.start()
        await wait_until_leads(replica)
        before = await lease(kube, operator_namespace)
        await team.submit("honest", minimum=1, maximum=2, gpus=0, policy="Throughput")
        await team.wait_for("honest", lambda job: training(job)["step"])
        for name in hostile:
            await tenant.submit(name, gpus=0)

        async def flooded() -> None:
            assert replica.process.poll() is None, replica.process.tail()
            assert len(flood.requests) >= HOSTILE * ROUNDS, f"{len(flood.requests)} requests"

        await eventually(flooded, 120)
        scrapes = OK_SCRAPES.search(replica.process.metrics())
        assert scrapes is not None
        assert float(scrapes[1]) > HOSTILE, "they count as read: nothing in them is a metric"
        step = training(await team.get("honest"))["step"]
        job = await team.wait_for("honest", lambda job: training(job)["step"] > step)
        after = await lease(kube, operator_namespace)
        assert condition(job, "CoordinatorReachable")["status"] == "True"
        assert scaling(job)["reason"] != "MetricsStale"
        # Both times are the operator's own.
        renewed = datetime.fromisoformat(after["renewTime"])
        reported = datetime.fromisoformat(training(job)["reportTime"])
        assert renewed - reported < 3 * INTERVAL + timedelta(seconds=10)
        for field in ("holderIdentity", "leaseTransitions"):
            assert after.get(field) == before.get(field)
