"""What an aggregator's process does from its first line to its last words."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Mapping
from pathlib import Path

from trainyard_trainer.contract.exits import Exit, Result, TerminationMessage
from trainyard_trainer.contract.federated import FederatedConfig
from trainyard_trainer.coordinator.pod import CoordinatorEnv, ServeOptions, run_process, wait_first
from trainyard_trainer.federated.server.aggregator import Aggregator
from trainyard_trainer.federated.server.http import AggregatorServer
from trainyard_trainer.transport.tls import Credentials

log = logging.getLogger(__name__)


def run(environ: Mapping[str, str], place: ServeOptions) -> Exit:
    """Aggregate until the federation has ended, or until told to end."""
    return run_process(
        environ,
        place,
        lambda: _aggregate(CoordinatorEnv.read(environ, FederatedConfig.decode), place),
    )


async def _aggregate(
    assignment: CoordinatorEnv[FederatedConfig], place: ServeOptions
) -> TerminationMessage:
    credentials = Credentials(
        namespace=assignment.namespace, job=assignment.job, directory=place.tls
    )
    aggregator = Aggregator(assignment.config, assignment.term, Path(place.state))
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    host = None if credentials.exist else "127.0.0.1"
    async with AggregatorServer(aggregator, credentials).serving(host, place.port) as port:
        log.info("term %d on port %d", assignment.term, port)
        over = _over(aggregator) if aggregator.config.durable else None
        await wait_first(told, aggregator.ended, over)
    return termination_message(aggregator)


async def _over(aggregator: Aggregator) -> None:
    """Wait until all is over and everybody knows: the parties, and the reader of the metrics."""
    await aggregator.wait_for_parties()
    await aggregator.reported()


def termination_message(aggregator: Aggregator) -> TerminationMessage:
    """How the federation stands as its aggregator ends."""
    record, result = aggregator.course.record, aggregator.archive.result
    metrics = result.get("metrics") if result else record.last.metrics if record.history else {}
    return TerminationMessage(
        result=aggregator.course.result or Result.LEFT,
        step=max(0, record.round),
        samples=record.trained,
        metrics=metrics or {},
    )
