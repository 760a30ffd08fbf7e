"""The coordinator's OpenMetrics: what `contract.Metric` names, made afresh for each scrape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.core import Metric as Family

from trainyard_trainer.contract.metrics import Metric
from trainyard_trainer.coordinator.members import MembershipService
from trainyard_trainer.membership.messages import ConfigurationThroughput
from trainyard_trainer.membership.registry import MemberPhase
from trainyard_trainer.runtime.exposition import Exposition, evaluation, info, outcome


class CoordinatorMetrics(Exposition):
    """Exposes membership, progress and the plan as metrics."""

    def __init__(self, members: MembershipService) -> None:
        """Each scrape reads `members` and its progress at that moment."""
        super().__init__()
        self._members = members

    def collect(self) -> Iterator[Family]:
        """All families, in the order of `contract.Metric`."""
        yield info(self._members.config.task)
        yield from self._membership()
        yield from self._training()
        yield from self._profile()
        yield from self._plan()

    def _membership(self) -> Iterator[Family]:
        registry = self._members.registry
        yield _gauge(Metric.TERM, "The coordinator's attempt.", registry.term)
        number = registry.view.id.number if registry.view is not None else 0
        yield _gauge(Metric.VIEW, "The number of the view in force.", number)
        phases = Counter(registry.phase(member_id) for member_id in registry.members)
        members = GaugeMetricFamily(Metric.MEMBERS, "Workers by state.", labels=["state"])
        for phase in MemberPhase:
            if phase is not MemberPhase.DEAD:
                members.add_metric([phase.value], phases[phase])
        yield members

    def _training(self) -> Iterator[Family]:
        progress = self._members.progress
        report = progress.report
        yield _gauge(Metric.STEP, "Steps committed.", report.step)
        yield _gauge(Metric.EPOCH, "Passes over the data.", report.epoch)
        yield _counter(Metric.SAMPLES, "Samples in committed steps.", report.samples)
        yield _counter(
            Metric.EPOCHS_AUDITED, "Epochs whose samples were checked.", report.epochs_audited
        )
        yield _gauge(Metric.SAMPLES_WRONG, "Samples missing or repeated.", report.samples_wrong)
        if report.loss is not None:
            yield _gauge(Metric.LOSS, "Mean loss of the last reported step.", report.loss)
        text = "Latest steps in a row whose loss is not finite."
        yield _gauge(Metric.NON_FINITE_STEPS, text, report.non_finite_steps)
        yield evaluation(report.metrics)
        if progress.last_step_at is not None:
            yield _gauge(Metric.LAST_STEP_AT, "When the last step was seen.", progress.last_step_at)
        if (usual := progress.usual_step_seconds) is not None:
            yield _gauge(Metric.USUAL_STEP, "Median duration of recent steps.", usual)

    def _profile(self) -> Iterator[Family]:
        measured = self._members.progress.throughput.values()
        for name, text, attribute in (
            (Metric.SAMPLES_PER_SECOND, "Throughput.", "samples_per_second"),
            (Metric.MEASURED_STEPS, "Steps behind these figures.", "steps"),
            (Metric.COMPUTE_SECONDS, "Mean compute time of a step.", "compute_seconds"),
            (Metric.COMMUNICATION_SECONDS, "Mean time in collectives.", "communication_seconds"),
            (Metric.BLOCKS, "Blocks behind the seconds per sample.", "blocks"),
            (Metric.SAMPLE_SECONDS, "Mean seconds per sample.", "sample_seconds"),
            (Metric.SAMPLE_SECONDS_DEVIATION, "Of one block.", "sample_seconds_deviation"),
        ):
            family = GaugeMetricFamily(name, text, labels=list(Metric.CONFIGURATION))
            for figures in measured:
                family.add_metric(_labels(figures), getattr(figures, attribute))
            yield family

    def _plan(self) -> Iterator[Family]:
        members, progress = self._members, self._members.progress
        yield _counter(Metric.RESCALES, "Completed view changes.", progress.rescales)
        yield _gauge(Metric.RESCALE_STALL, "Stall of the last rescale.", progress.stall_seconds)
        yield _gauge(Metric.RESCALE_COST, "Cost of the last rescale.", progress.cost_seconds)
        generation = members.plan.generation if members.plan else progress.report.plan_generation
        yield _gauge(Metric.PLAN_GENERATION, "The newest plan.", generation)
        if progress.report.plan_generation:
            text = "Where the plan in force took effect."
            yield _gauge(Metric.PLAN_EFFECTIVE_STEP, text, progress.report.plan_effective_step)
        yield _gauge(Metric.CHECKPOINT_STEP, "The newest checkpoint.", progress.checkpoint_step)
        yield _counter(Metric.FAILED_WRITES, "Failed writes of state.", progress.failed_writes)
        text, failures = "Failed writes since the last one.", progress.consecutive_failed_writes
        yield _gauge(Metric.CONSECUTIVE_FAILED_WRITES, text, failures)
        yield from outcome(members.registry.result)


def _gauge(name: str, text: str, value: float) -> Family:
    return GaugeMetricFamily(name, text, value=value)


def _counter(name: str, text: str, value: float) -> Family:
    return CounterMetricFamily(name, text, value=value)


def _labels(figures: ConfigurationThroughput) -> list[str]:
    return [str(getattr(figures, name)) for name in Metric.CONFIGURATION]
