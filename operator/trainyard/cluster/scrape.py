"""From a coordinator's OpenMetrics text to a `Report`.

Any trainer that serves the documented names can be scaled, so this trusts nothing: what is absent
is unknown, and a figure that is not finite is absent.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime

from prometheus_client.openmetrics.parser import text_string_to_metric_families

from trainyard.api.report import Report
from trainyard.api.status import Measurement
from trainyard_trainer.contract import Metric

MAX_CONFIGURATIONS = 64
MAX_EVALUATIONS = 32

Sample = tuple[dict[str, str], float]


def parse_report(text: str, at: datetime) -> Report:
    """Read the figures; raises ValueError when the text is not OpenMetrics."""
    found = _samples(text)
    one = _Figures(found)
    return Report(
        at=at,
        wire=int(one.label(Metric.INFO, "wire") or 0),
        term=int(one.number(Metric.TERM) or 0),
        view=int(one.number(Metric.VIEW) or 0),
        step=int(one.number(Metric.STEP) or 0),
        epoch=one.number(Metric.EPOCH) or 0.0,
        samples=int(one.number(f"{Metric.SAMPLES}_total") or 0),
        loss=one.number(Metric.LOSS),
        evaluation=one.by_label(Metric.EVAL, "metric"),
        members={k: int(v) for k, v in one.by_label(Metric.MEMBERS, "state").items()},
        profile=tuple(_profile(found)),
        rescales=int(one.number(f"{Metric.RESCALES}_total") or 0),
        stall_seconds=one.number(Metric.RESCALE_STALL),
        cost_gpu_seconds=one.number(Metric.RESCALE_COST),
        plan_generation=int(one.number(Metric.PLAN_GENERATION) or 0),
        checkpoint_step=int(_or(one.number(Metric.CHECKPOINT_STEP), -1)),
        outcome=one.label(Metric.OUTCOME, "result"),
    )


class _Figures:
    """Look-ups in the samples, by name."""

    def __init__(self, found: dict[str, list[Sample]]) -> None:
        self._found = found

    def number(self, name: str) -> float | None:
        return next((value for _, value in self._found.get(name, ())), None)

    def label(self, name: str, label: str) -> str:
        return next((labels.get(label, "") for labels, _ in self._found.get(name, ())), "")

    def by_label(self, name: str, label: str) -> dict[str, float]:
        pairs = self._found.get(name, ())[:MAX_EVALUATIONS]
        return {labels[label]: value for labels, value in pairs if label in labels}


def _samples(text: str) -> dict[str, list[Sample]]:
    found: dict[str, list[Sample]] = defaultdict(list)
    for family in text_string_to_metric_families(text):  # type: ignore[no-untyped-call]
        for sample in family.samples:
            if math.isfinite(sample.value):
                found[sample.name].append((sample.labels, sample.value))
    return found


def _profile(found: dict[str, list[Sample]]) -> Iterable[Measurement]:
    steps = {_configuration(labels): value for labels, value in found[Metric.MEASURED_STEPS]}
    for labels, value in found[Metric.SAMPLES_PER_SECOND][:MAX_CONFIGURATIONS]:
        nodes, workers, local_batch = configuration = _configuration(labels)
        if value > 0 and min(configuration) > 0:
            yield Measurement(
                nodes=nodes,
                workers=workers,
                local_batch=local_batch,
                samples_per_second=value,
                steps=int(steps.get(configuration, 0)),
            )


def _configuration(labels: dict[str, str]) -> tuple[int, int, int]:
    nodes, workers, local_batch = (_count(labels.get(n, "")) for n in Metric.CONFIGURATION)
    return nodes, workers, local_batch


def _count(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 10 else 0


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
