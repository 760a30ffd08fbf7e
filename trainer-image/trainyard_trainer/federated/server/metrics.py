"""The aggregator's OpenMetrics, rendered for each scrape; `contract.FederatedMetric` names them."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.core import Metric as Family

from trainyard_trainer.contract.federated import FederatedMetric
from trainyard_trainer.contract.metrics import Metric
from trainyard_trainer.federated.server.aggregator import Aggregator
from trainyard_trainer.runtime.exposition import Exposition, evaluation, info, outcome


class AggregatorMetrics(Exposition):
    """Reads an aggregator's state as metrics."""

    def __init__(self, aggregator: Aggregator) -> None:
        """Each scrape reads the current state of `aggregator`."""
        super().__init__()
        self._aggregator = aggregator

    def collect(self) -> Iterator[Family]:
        """All families."""
        yield from self._job()
        yield from self._rounds()
        yield from self._parties()

    def _job(self) -> Iterator[Family]:
        aggregator, history = self._aggregator, self._aggregator.machine.history
        yield info(aggregator.config.task)
        yield GaugeMetricFamily(Metric.TERM, "The aggregator's attempt.", value=aggregator.term)
        yield CounterMetricFamily(
            Metric.SAMPLES, "Samples trained on.", value=history.samples_trained
        )
        losses = [record.loss for record in history.rounds if record.loss is not None]
        if losses:
            yield GaugeMetricFamily(Metric.LOSS, "Mean training loss.", value=losses[-1])
        yield evaluation(self._metrics())
        generation = max(aggregator.machine.settings.generation, history.generation)
        yield GaugeMetricFamily(Metric.PLAN_GENERATION, "The newest Plan.", value=generation)
        yield from outcome(aggregator.machine.result)

    def _metrics(self) -> dict[str, float]:
        """The newest evaluation; once the federation is complete, that of the result."""
        if self._aggregator.store.result:
            return dict(self._aggregator.store.result.get("metrics", {}))
        rounds = self._aggregator.machine.history.rounds
        return next((record.metrics for record in reversed(rounds) if record.metrics), {})

    def _rounds(self) -> Iterator[Family]:
        machine = self._aggregator.machine
        stored = max(0, machine.history.round)
        yield GaugeMetricFamily(FederatedMetric.ROUND, "Rounds safely stored.", value=stored)
        if machine.history.round > 0:
            seconds = machine.round_seconds or machine.history.last_round.seconds
            text = "Duration of the last round."
            yield GaugeMetricFamily(FederatedMetric.ROUND_SECONDS, text, value=seconds)
        if machine.deadline < math.inf:
            at = time.time() + machine.deadline - self._aggregator.now
            text = "When the round in flight closes."
            yield GaugeMetricFamily(FederatedMetric.ROUND_DEADLINE, text, value=at)
        yield CounterMetricFamily(
            FederatedMetric.ROUNDS_LOST, "Rounds abandoned.", value=machine.rounds_lost
        )
        if machine.target is not None and machine.history.best is not None:
            best = machine.history.best.round
            yield GaugeMetricFamily(FederatedMetric.BEST_ROUND, "The best round.", value=best)

    def _parties(self) -> Iterator[Family]:
        aggregator, history = self._aggregator, self._aggregator.machine.history
        names = sorted(aggregator.parties)
        states = GaugeMetricFamily(
            FederatedMetric.PARTY_STATE, "What a party is doing.", labels=["party", "state"]
        )
        for name in names:
            states.add_metric([name, aggregator.machine.party_state(name).value], 1)
        yield states
        connections = aggregator.connections
        yield _counter(FederatedMetric.PARTY_ROUNDS, history.contributions, names)
        yield _gauge(FederatedMetric.PARTY_SAMPLES, history.samples, names)
        seconds = {
            name: connection.response_seconds
            for name, connection in connections.items()
            if connection.response_seconds is not None
        }
        yield _gauge(FederatedMetric.PARTY_SECONDS, seconds, names)
        received = {name: connection.received_bytes for name, connection in connections.items()}
        yield _counter(FederatedMetric.PARTY_RECEIVED, received, names)
        sent = {name: connection.sent_bytes for name, connection in connections.items()}
        yield _counter(FederatedMetric.PARTY_SENT, sent, names)
        refused = CounterMetricFamily(
            FederatedMetric.REFUSED, "Updates refused.", labels=["party", "reason"]
        )
        for (name, reason), count in sorted(aggregator.refusals.items()):
            refused.add_metric([name, reason], count)
        yield refused


def _gauge(name: str, values: dict[str, float] | dict[str, int], parties: list[str]) -> Family:
    family = GaugeMetricFamily(name, "By party.", labels=["party"])
    for party in parties:
        if party in values:
            family.add_metric([party], values[party])
    return family


def _counter(name: str, values: dict[str, int], parties: list[str]) -> Family:
    family = CounterMetricFamily(name, "By party.", labels=["party"])
    for party in parties:
        family.add_metric([party], values.get(party, 0))
    return family
