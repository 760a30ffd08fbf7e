"""Parsing a coordinator's OpenMetrics text into a `CoordinatorReport`.

Any trainer that serves the documented metrics can be scaled, so the input is untrusted: a missing
metric is unknown, and a value that is not finite is missing.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime

from prometheus_client.openmetrics.parser import text_string_to_metric_families

from trainyard.api.report import CoordinatorReport, FederationReport, PartyReport
from trainyard.api.status import Measurement, SampleTimes
from trainyard_trainer.contract.federated import FederatedMetric
from trainyard_trainer.contract.metrics import Metric

MAX_CONFIGURATIONS = 64
"""The newest count: a coordinator serves them in the order in which it measured first."""
MAX_EVALUATIONS = 32
MAX_PARTIES = 256
MAX_REFUSALS = 16
"""Reasons of refused updates per party; the contract defines some six."""
MAX_LABEL = 128
"""Characters of a label; samples with longer ones are ignored."""
MAX_LINE = 1024
"""Characters of a line; longer ones are ignored, because the parser needs quadratic time for a line
and one job's trainer must not block the operator."""
MAX_LINES = 5000
"""Lines that the parser gets, at some 25 µs each; an aggregator of 256 parties needs 4,900."""
INT32, INT64 = 2**31 - 1, 2**63 - 1
"""The largest values that the status can hold."""
MAX_RATE = 1e15
"""Samples per second; higher rates are no measurement, and their sums would not be finite."""
MAX_SAMPLE_SECONDS = 1e9
"""Seconds per sample, a lifetime: more is no measurement, and its square would not be finite."""
MAX_STEP_SECONDS = 1e9
"""Seconds of a step, a lifetime: more is no measurement."""
MAX_TIME = 2**37
"""Unix time of a step; it is some centuries before the last year that dates can have."""

_FAMILIES = frozenset(
    name
    for contract in (Metric, FederatedMetric)
    for constant, name in vars(contract).items()
    if constant.isupper() and isinstance(name, str)
)
_KNOWN = _FAMILIES | {f"{name}_total" for name in _FAMILIES} | {"trainyard_training"}
"""Names of families and samples; that of an info family lacks the suffix of its sample."""
_NAME = re.compile(r"(?:# TYPE )?(\w+)")

Sample = tuple[dict[str, str], float]
Configuration = tuple[int, int, int]
"""Nodes, workers and local batch."""


class ReportError(ValueError):
    """The text is not OpenMetrics, or too much of it."""


def parse_report(text: str, at: datetime) -> CoordinatorReport:
    """Parse a report; raises ReportError."""
    try:
        return _report(_samples(text), at)
    except ReportError:
        raise
    except Exception as error:  # the parser raises KeyError, too, on text that it does not expect
        raise ReportError(f"{type(error).__name__}: {error}") from error


def _report(found: dict[str, list[Sample]], at: datetime) -> CoordinatorReport:
    one = _Figures(found)
    return CoordinatorReport(
        at=at,
        wire=int(one.label(Metric.INFO, "wire") or 0),
        term=one.count(Metric.TERM),
        view=one.count(Metric.VIEW),
        step=one.count(Metric.STEP),
        epoch=one.number(Metric.EPOCH) or 0.0,
        samples=one.count(f"{Metric.SAMPLES}_total"),
        loss=one.number(Metric.LOSS),
        non_finite_steps=one.count(Metric.NON_FINITE_STEPS),
        last_step_at=_time(one.number(Metric.LAST_STEP_AT)),
        usual_step_seconds=_duration(one.number(Metric.USUAL_STEP)),
        evaluation=one.by_label(Metric.EVAL, "metric"),
        members={
            k: _whole(v, INT32 // MAX_EVALUATIONS)
            for k, v in one.by_label(Metric.MEMBERS, "state").items()
        },
        profile=tuple(_profile(found)),
        rescales=one.count(f"{Metric.RESCALES}_total"),
        stall_seconds=one.number(Metric.RESCALE_STALL),
        cost_gpu_seconds=one.number(Metric.RESCALE_COST),
        plan_generation=one.count(Metric.PLAN_GENERATION),
        checkpoint_step=_whole(_or(one.number(Metric.CHECKPOINT_STEP), -1) + 1) - 1,
        consecutive_failed_writes=one.count(Metric.CONSECUTIVE_FAILED_WRITES),
        federation=_federation(found, one),
        outcome=one.label(Metric.OUTCOME, "result"),
    )


class _Figures:
    """Lookups of samples by metric name."""

    def __init__(self, found: dict[str, list[Sample]]) -> None:
        self._found = found

    def number(self, name: str) -> float | None:
        return next((value for _, value in self._found.get(name, ())), None)

    def count(self, name: str) -> int:
        return _whole(self.number(name) or 0)

    def label(self, name: str, label: str) -> str:
        return next((labels.get(label, "") for labels, _ in self._found.get(name, ())), "")

    def by_label(self, name: str, label: str) -> dict[str, float]:
        pairs = self._found.get(name, ())[:MAX_EVALUATIONS]
        return {labels[label]: value for labels, value in pairs if label in labels}


def _samples(text: str) -> dict[str, list[Sample]]:
    found: dict[str, list[Sample]] = defaultdict(list)
    text = "\n".join(_lines(text))
    for family in text_string_to_metric_families(text):  # type: ignore[no-untyped-call]
        for sample in family.samples:
            if math.isfinite(sample.value) and _is_short(sample.labels):
                found[sample.name].append((sample.labels, sample.value))
    return found


def _lines(text: str) -> list[str]:
    """What the parser gets: the types and samples of the contract's metrics, and the end."""
    lines = [line for line in text.split("\n") if len(line) <= MAX_LINE and _is_known(line)]
    if len(lines) > MAX_LINES:
        raise ReportError(f"more than {MAX_LINES} lines of the metrics that are read")
    return lines


def _is_known(line: str) -> bool:
    name = _NAME.match(line)
    return line in ("", "# EOF") or (name is not None and name[1] in _KNOWN)


def _profile(found: dict[str, list[Sample]]) -> Iterable[Measurement]:
    steps = _by_configuration(found[Metric.MEASURED_STEPS])
    times = _sample_times(found)
    for labels, value in found[Metric.SAMPLES_PER_SECOND][-MAX_CONFIGURATIONS:]:
        nodes, workers, local_batch = configuration = _configuration(labels)
        if 0 < value < MAX_RATE and min(configuration) > 0:
            yield Measurement(
                nodes=nodes,
                workers=workers,
                local_batch=local_batch,
                samples_per_second=value,
                steps=_whole(steps.get(configuration, 0), INT32),
                sample_times=times.get(configuration),
            )


def _sample_times(found: dict[str, list[Sample]]) -> dict[Configuration, SampleTimes]:
    """The spread by configuration, where all its figures are possible.

    One block has none: its deviation is 0 and says nothing.
    """
    blocks = _by_configuration(found[Metric.BLOCKS])
    deviations = _by_configuration(found[Metric.SAMPLE_SECONDS_DEVIATION])
    return {
        configuration: SampleTimes(
            blocks=_whole(blocks[configuration], INT32),
            mean=mean,
            deviation=deviations[configuration],
        )
        for configuration, mean in _by_configuration(found[Metric.SAMPLE_SECONDS]).items()
        if blocks.get(configuration, 0) >= 2
        and 1 / MAX_RATE < mean < MAX_SAMPLE_SECONDS
        and 0 <= deviations.get(configuration, -1) < MAX_SAMPLE_SECONDS
    }


def _by_configuration(samples: list[Sample]) -> dict[Configuration, float]:
    return {_configuration(labels): value for labels, value in samples}


def _federation(found: dict[str, list[Sample]], one: _Figures) -> FederationReport | None:
    """The metrics that only an aggregator has; None without them."""
    metric = FederatedMetric
    if metric.ROUND not in found:
        return None
    best = one.number(metric.BEST_ROUND)
    return FederationReport(
        round=one.count(metric.ROUND),
        rounds_lost=one.count(f"{metric.ROUNDS_LOST}_total"),
        best_round=None if best is None else _whole(best),
        round_seconds=one.number(metric.ROUND_SECONDS),
        parties=_parties(found),
    )


def _parties(found: dict[str, list[Sample]]) -> dict[str, PartyReport]:
    metric = FederatedMetric
    states = _by_party(found[metric.PARTY_STATE])
    rounds = _by_party(found[f"{metric.PARTY_ROUNDS}_total"])
    samples = _by_party(found[metric.PARTY_SAMPLES])
    seconds = _by_party(found[metric.PARTY_SECONDS])
    refused = _by_party(found[f"{metric.REFUSED}_total"])
    return {
        name: PartyReport(
            state=next((labels.get("state", "") for labels, value in by_state if value), ""),
            rounds=_figure(rounds.get(name)),
            samples=_figure(samples.get(name)),
            seconds=next((value for _, value in seconds.get(name, ())), None),
            refused={
                labels.get("reason", ""): _whole(value)
                for labels, value in refused.get(name, ())[:MAX_REFUSALS]
                if value >= 1
            },
        )
        for name, by_state in list(states.items())[:MAX_PARTIES]
    }


def _by_party(samples: list[Sample]) -> dict[str, list[Sample]]:
    grouped: dict[str, list[Sample]] = {}
    for labels, value in samples:
        grouped.setdefault(labels.get("party", ""), []).append((labels, value))
    return grouped


def _figure(samples: list[Sample] | None) -> int:
    return _whole(samples[0][1]) if samples else 0


def _configuration(labels: dict[str, str]) -> Configuration:
    nodes, workers, local_batch = (_count(labels.get(n, "")) for n in Metric.CONFIGURATION)
    return nodes, workers, local_batch


def _count(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 10 else 0


def _is_short(labels: dict[str, str]) -> bool:
    return all(len(text) <= MAX_LABEL for text in labels.values())


def _whole(value: float, most: int = INT64) -> int:
    """A count, limited to what the status can hold."""
    return max(0, min(int(value), most))


def _time(seconds: float | None) -> datetime | None:
    """A Unix time; None for one that no calendar has."""
    is_time = seconds is not None and 0 < seconds < MAX_TIME
    return datetime.fromtimestamp(seconds, UTC) if seconds and is_time else None


def _duration(seconds: float | None) -> float | None:
    return seconds if seconds is not None and 0 < seconds < MAX_STEP_SECONDS else None


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
