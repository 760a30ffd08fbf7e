"""The aggregator's OpenMetrics: what `contract.FederatedMetric` names, made for each scrape."""

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
        """Every scrape reads `aggregator` as it then is."""
        super().__init__()
        self._aggregator = aggregator

    def collect(self) -> Iterator[Family]:
        """All families."""
        yield from self._job()
        yield from self._rounds()
        yield from self._parties()

    def _job(self) -> Iterator[Family]:
        aggregator, record = self._aggregator, self._aggregator.course.record
        yield info(aggregator.config.task)
        yield GaugeMetricFamily(Metric.TERM, "The aggregator's attempt.", value=aggregator.term)
        yield CounterMetricFamily(Metric.SAMPLES, "Samples trained on.", value=record.trained)
        losses = [past.loss for past in record.history if past.loss is not None]
        if losses:
            yield GaugeMetricFamily(Metric.LOSS, "Mean training loss.", value=losses[-1])
        yield evaluation(self._metrics())
        generation = max(aggregator.plan.generation if aggregator.plan else 0, record.generation)
        yield GaugeMetricFamily(Metric.PLAN_GENERATION, "The newest plan.", value=generation)
        yield from outcome(aggregator.course.result)

    def _metrics(self) -> dict[str, float]:
        """The newest evaluation; at the end that of the result."""
        if self._aggregator.archive.result:
            return dict(self._aggregator.archive.result.get("metrics", {}))
        history = self._aggregator.course.record.history
        return next((past.metrics for past in reversed(history) if past.metrics), {})

    def _rounds(self) -> Iterator[Family]:
        course = self._aggregator.course
        stored = max(0, course.record.round)
        yield GaugeMetricFamily(FederatedMetric.ROUND, "Rounds safely stored.", value=stored)
        if course.record.round > 0:
            seconds = course.seconds or course.record.last.seconds
            text = "Of the last folded round."
            yield GaugeMetricFamily(FederatedMetric.ROUND_SECONDS, text, value=seconds)
        if course.deadline < math.inf:
            at = time.time() + course.deadline - self._aggregator.now
            text = "When the round in flight closes."
            yield GaugeMetricFamily(FederatedMetric.ROUND_DEADLINE, text, value=at)
        yield CounterMetricFamily(FederatedMetric.ROUNDS_LOST, "Given up.", value=course.lost)
        if course.target is not None and course.record.best is not None:
            best = course.record.best.round
            yield GaugeMetricFamily(FederatedMetric.BEST_ROUND, "The best round.", value=best)

    def _parties(self) -> Iterator[Family]:
        aggregator, record = self._aggregator, self._aggregator.course.record
        names = sorted(aggregator.parties)
        states = GaugeMetricFamily(
            FederatedMetric.PARTY_STATE, "What a party is doing.", labels=["party", "state"]
        )
        for name in names:
            states.add_metric([name, aggregator.course.state_of(name).value], 1)
        yield states
        contacts = aggregator.contacts
        yield _counter(FederatedMetric.PARTY_ROUNDS, record.contributions, names)
        yield _gauge(FederatedMetric.PARTY_SAMPLES, record.samples, names)
        seconds = {n: c.seconds for n, c in contacts.items() if c.seconds is not None}
        yield _gauge(FederatedMetric.PARTY_SECONDS, seconds, names)
        received = {name: contact.received for name, contact in contacts.items()}
        yield _counter(FederatedMetric.PARTY_RECEIVED, received, names)
        sent = {name: contact.sent for name, contact in contacts.items()}
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
