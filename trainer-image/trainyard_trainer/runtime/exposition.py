"""The part of the metrics that both kinds of job share; rendered anew for each scrape."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from trainyard_trainer import __version__
from trainyard_trainer.contract.env import WIRE_VERSION
from trainyard_trainer.contract.exits import Result
from trainyard_trainer.contract.metrics import Metric

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST


class Exposition(Collector):
    """OpenMetrics of whatever `collect` reads."""

    def __init__(self) -> None:
        """Nothing is read before the first scrape."""
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def render(self) -> bytes:
        """The OpenMetrics text."""
        text: bytes = generate_latest(self._registry)  # type: ignore[no-untyped-call]
        return text


def info(task: str) -> Family:
    """Wire version, release and task; the operator checks the wire version first."""
    labels = {"wire": str(WIRE_VERSION), "version": __version__, "task": task}
    return InfoMetricFamily(Metric.INFO.removesuffix("_info"), "The trainer.", value=labels)


def evaluation(metrics: Mapping[str, float | None]) -> Family:
    """The last evaluation, by metric; NaN where the task returned no finite value."""
    family = GaugeMetricFamily(Metric.EVAL, "The last evaluation.", labels=["metric"])
    for name, value in metrics.items():
        family.add_metric([name], float("nan") if value is None else value)
    return family


def outcome(result: Result | None) -> Iterator[Family]:
    """How the training ended, once it has."""
    if result is not None:
        family = GaugeMetricFamily(Metric.OUTCOME, "How it ended.", labels=["result"])
        family.add_metric([result.value], 1)
        yield family
