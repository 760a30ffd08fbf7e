"""What an aggregator's process does from its first line to its last words."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Mapping
from pathlib import Path

from trainyard_trainer.contract import Exit, LastWords, Result
from trainyard_trainer.contract.federated import FederatedConfig
from trainyard_trainer.coordinator.pod import Assignment, Place, attend, first
from trainyard_trainer.federated.server.aggregator import Aggregator
from trainyard_trainer.federated.server.http import Server
from trainyard_trainer.transport.tls import Credentials

log = logging.getLogger(__name__)


def run(environ: Mapping[str, str], place: Place) -> Exit:
    """Aggregate until the federation has ended, or until told to end."""
    return attend(
        environ, place, lambda: _aggregate(Assignment.read(environ, FederatedConfig.decode), place)
    )


async def _aggregate(assignment: Assignment[FederatedConfig], place: Place) -> LastWords:
    credentials = Credentials(
        namespace=assignment.namespace, job=assignment.job, directory=place.tls
    )
    aggregator = Aggregator(assignment.config, assignment.term, Path(place.state))
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    host = None if credentials.exist else "127.0.0.1"
    async with Server(aggregator, credentials).serving(host, place.port) as port:
        log.info("term %d on port %d", assignment.term, port)
        over = _over(aggregator) if aggregator.config.durable else None
        await first(told, aggregator.ended, over)
    return last_words(aggregator)


async def _over(aggregator: Aggregator) -> None:
    """Wait until all is over and everybody knows: the parties, and the reader of the metrics."""
    await aggregator.dispersed()
    await aggregator.reported()


def last_words(aggregator: Aggregator) -> LastWords:
    """How the federation stands as its aggregator ends."""
    record, result = aggregator.course.record, aggregator.archive.result
    metrics = result.get("metrics") if result else record.last.metrics if record.history else {}
    return LastWords(
        result=aggregator.course.result or Result.LEFT,
        step=max(0, record.round),
        samples=record.trained,
        metrics=metrics or {},
    )
