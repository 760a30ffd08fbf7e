"""Parsing a coordinator's metrics: nothing in them is trusted."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.support.jobs import NOW
from trainyard.api.report import CoordinatorReport, FederationReport, PartyReport
from trainyard.api.status import Measurement, SampleTimes
from trainyard.cluster import scrape
from trainyard.cluster.scrape import MAX_LINES, MAX_PARTIES, ReportError, parse_report
from trainyard_trainer.contract.federated import RefusalReason

# As the trainer's coordinator serves it.
HONEST = """\
# HELP trainyard_training Who trains.
# TYPE trainyard_training info
trainyard_training_info{task="digits:Digits",version="0.1.0",wire="1"} 1.0
# TYPE trainyard_training_term gauge
trainyard_training_term 2.0
# TYPE trainyard_training_view gauge
trainyard_training_view 5.0
# TYPE trainyard_training_members gauge
trainyard_training_members{state="active"} 3.0
trainyard_training_members{state="warming"} 1.0
# TYPE trainyard_training_step gauge
trainyard_training_step 1200.0
# TYPE trainyard_training_epoch gauge
trainyard_training_epoch 3.5
# TYPE trainyard_training_samples counter
trainyard_training_samples_total 307200.0
trainyard_training_samples_created 1.7e9
# TYPE trainyard_training_loss gauge
trainyard_training_loss 0.25
# TYPE trainyard_training_non_finite_steps gauge
trainyard_training_non_finite_steps 3.0
# TYPE trainyard_training_last_step_timestamp_seconds gauge
trainyard_training_last_step_timestamp_seconds 1767225600.0
# TYPE trainyard_training_usual_step_seconds gauge
trainyard_training_usual_step_seconds 0.5
# TYPE trainyard_training_eval gauge
trainyard_training_eval{metric="eval/accuracy"} 0.97
# TYPE trainyard_training_samples_per_second gauge
trainyard_training_samples_per_second{local_batch="128",nodes="1",workers="2"} 900.5
trainyard_training_samples_per_second{local_batch="64",nodes="2",workers="4"} 1600.0
# TYPE trainyard_training_measured_steps gauge
trainyard_training_measured_steps{local_batch="128",nodes="1",workers="2"} 40.0
# TYPE trainyard_training_rescales counter
trainyard_training_rescales_total 4.0
# TYPE trainyard_training_rescale_stall_seconds gauge
trainyard_training_rescale_stall_seconds 0.12
# TYPE trainyard_training_rescale_cost_gpu_seconds gauge
trainyard_training_rescale_cost_gpu_seconds 7.5
# TYPE trainyard_training_plan_generation gauge
trainyard_training_plan_generation 6.0
# TYPE trainyard_training_checkpoint_step gauge
trainyard_training_checkpoint_step 1000.0
# TYPE trainyard_training_outcome gauge
trainyard_training_outcome{result="Complete"} 1.0
# EOF
"""


def report_of(*lines: str) -> CoordinatorReport:
    return parse_report("\n".join([*lines, "# EOF\n"]), NOW)


def throughput(value: str, nodes: str = "1", workers: str = "2", local_batch: str = "8") -> str:
    labels = f'nodes="{nodes}",workers="{workers}",local_batch="{local_batch}"'
    return f"trainyard_training_samples_per_second{{{labels}}} {value}"


def test_genuine_metrics_are_parsed_in_full() -> None:
    assert parse_report(HONEST, NOW) == CoordinatorReport(
        at=NOW,
        wire=1,
        term=2,
        view=5,
        step=1200,
        epoch=3.5,
        samples=307200,
        loss=0.25,
        non_finite_steps=3,
        last_step_at=datetime(2026, 1, 1, tzinfo=UTC),
        usual_step_seconds=0.5,
        evaluation={"eval/accuracy": 0.97},
        members={"active": 3, "warming": 1},
        profile=(
            Measurement(nodes=1, workers=2, local_batch=128, samples_per_second=900.5, steps=40),
            Measurement(nodes=2, workers=4, local_batch=64, samples_per_second=1600.0, steps=0),
        ),
        rescales=4,
        stall_seconds=0.12,
        cost_gpu_seconds=7.5,
        plan_generation=6,
        checkpoint_step=1000,
        outcome="Complete",
    )


@pytest.mark.parametrize("value", ["-1", "0", "1e300"])
def test_an_impossible_time_or_duration_of_a_step_is_unknown(value: str) -> None:
    for metric in ("last_step_timestamp_seconds", "usual_step_seconds"):
        name = f"trainyard_training_{metric}"
        report = report_of(f"# TYPE {name} gauge", f"{name} {value}")
        assert (report.last_step_at, report.usual_step_seconds) == (None, None)


def test_a_missing_metric_is_unknown() -> None:
    assert report_of() == CoordinatorReport(at=NOW)


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-Inf"])
def test_a_value_that_is_not_finite_is_missing(value: str) -> None:
    report = report_of(
        f"trainyard_training_loss {value}",
        f"trainyard_training_step {value}",
        f'trainyard_training_eval{{metric="eval/loss"}} {value}',
        f'trainyard_training_members{{state="active"}} {value}',
        throughput(value),
    )
    assert report == CoordinatorReport(at=NOW)


@pytest.mark.parametrize(
    ("line", "field", "expected"),
    [
        ("trainyard_training_step -3", "step", 0),
        ("trainyard_training_step 1e300", "step", 2**63 - 1),
        ("trainyard_training_term -1", "term", 0),
        ("trainyard_training_view 1e19", "view", 2**63 - 1),
        ("trainyard_training_checkpoint_step -7", "checkpoint_step", -1),
        ("trainyard_training_checkpoint_step 0", "checkpoint_step", 0),
        ("trainyard_training_plan_generation -1", "plan_generation", 0),
        ("trainyard_training_loss -2.5", "loss", -2.5),
    ],
)
def test_a_count_stays_within_what_the_status_can_hold(
    line: str, field: str, expected: float
) -> None:
    assert getattr(report_of(line), field) == expected


def test_negative_and_huge_numbers_of_members_are_bounded() -> None:
    report = report_of(
        'trainyard_training_members{state="active"} -4',
        'trainyard_training_members{state="warming"} 1e18',
    )
    assert report.active_workers == 0
    assert 0 < report.members["warming"] < 2**31


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(throughput("-5"), id="negative"),
        pytest.param(throughput("0"), id="zero"),
        pytest.param(throughput("1e300"), id="beyond any machine"),
        pytest.param(throughput("5", workers="0"), id="no workers"),
        pytest.param(throughput("5", workers="-2"), id="fewer than none"),
        pytest.param(throughput("5", workers="two"), id="words"),
        pytest.param(throughput("5", workers="2.5"), id="parts of a worker"),
        pytest.param(throughput("5", nodes=""), id="no nodes"),
        pytest.param(throughput("5", local_batch="9" * 30), id="a batch beyond counting"),
        pytest.param("trainyard_training_samples_per_second 5", id="no labels"),
    ],
)
def test_an_empty_measurement_is_dropped(line: str) -> None:
    assert report_of(line).profile == ()


@pytest.mark.parametrize("length", [129, 1000, 100_000])
def test_a_long_label_does_not_reach_the_status(length: int) -> None:
    long = "x" * length
    report = report_of(
        f'trainyard_training_eval{{metric="{long}"}} 1',
        'trainyard_training_eval{metric="eval/accuracy"} 0.5',
        f'trainyard_training_members{{state="{long}"}} 1',
    )
    assert report.evaluation == {"eval/accuracy": 0.5}
    assert report.members == {}


def test_a_line_that_blocks_the_parser_is_not_read() -> None:
    """A megabyte of quotes took it nine seconds, in which no job was reconciled."""
    quotes = '\\"' * 500_000
    report = report_of(
        f'trainyard_training_eval{{metric="{quotes}"}} 1', "trainyard_training_step 5"
    )
    assert report.step == 5


def test_the_number_of_series_is_limited() -> None:
    evaluations = (f'trainyard_training_eval{{metric="m{n}"}} 1' for n in range(1000))
    configurations = (throughput("5", workers=str(n + 1)) for n in range(1000))
    report = report_of(*evaluations, *configurations)
    assert len(report.evaluation) == 32
    assert len(report.profile) == 64


def test_of_too_many_configurations_the_newest_are_read() -> None:
    """A coordinator serves them in the order in which it measured first."""
    report = report_of(*(throughput("5", workers=str(n)) for n in range(1, 101)))
    assert [m.workers for m in report.profile] == list(range(37, 101))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("trainyard_training_step 1\n", id="cut off"),
        pytest.param("<html>Bad gateway</html>", id="a page"),
        pytest.param("trainyard_training_step one\n# EOF\n", id="no number"),
        pytest.param('trainyard_training_info{wire="new"} 1\n# EOF\n', id="no wire version"),
        pytest.param("\x00\x01\x02", id="bytes"),
    ],
)
def test_a_text_that_is_not_openmetrics_is_rejected(text: str) -> None:
    with pytest.raises(ReportError, match=r"."):
        parse_report(text, NOW)


TYPES = ("counter", "gauge", "histogram", "gaugehistogram", "info", "stateset", "summary")
ODD_LINES = st.one_of(
    st.sampled_from(HONEST.splitlines()),
    st.builds("# TYPE trainyard_training_step {}".format, st.sampled_from(TYPES)),
    st.builds(
        "trainyard_training_step{}".format, st.sampled_from([" {x:1}", "{x", "{} 1 # {", ""])
    ),
)


@given(st.text() | st.lists(ODD_LINES).map("\n".join))
@example("# EOF")
@example("# TYPE trainyard_training_step histogram\ntrainyard_training_step {x:1}")
def test_no_text_raises_anything_else(text: str) -> None:
    for whole in (text, f"{text}\n# EOF\n"):
        try:
            parse_report(whole, NOW)
        except ReportError:
            continue


@pytest.fixture
def parsed_lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines that the parser has been given."""
    lines: list[str] = []

    def record(text: str) -> Any:
        lines.extend(text.splitlines())
        return text_string_to_metric_families(text)  # type: ignore[no-untyped-call]

    monkeypatch.setattr(scrape, "text_string_to_metric_families", record)
    return lines


def test_families_of_others_cost_the_parser_nothing(parsed_lines: list[str]) -> None:
    """33,000 families in 256 KiB took it half a second, again and again."""
    bomb = [f"a{number:x} 1" for number in range(33_000)]
    assert report_of(*bomb, "trainyard_training_step 5").step == 5
    assert parsed_lines == ["trainyard_training_step 5", "# EOF"]


def test_a_flood_of_our_own_metrics_is_refused_before_it_is_parsed(
    parsed_lines: list[str],
) -> None:
    flood = ["trainyard_training_step 1"] * (MAX_LINES + 1)
    with pytest.raises(ReportError, match=f"more than {MAX_LINES} lines"):
        report_of(*flood)
    assert parsed_lines == []


def test_the_largest_aggregator_is_parsed_in_full(parsed_lines: list[str]) -> None:
    by_party = ["party_state", "party_rounds_total", "party_samples", "party_seconds"]
    by_party += ["party_received_bytes_total", "party_sent_bytes_total"]
    reasons = [f'updates_refused_total{{party="p%d",reason="{r.value}"}}' for r in RefusalReason]
    series = [*(f'{name}{{party="p%d"}}' for name in by_party), *reasons]
    lines = [f"trainyard_federated_{one % n} 1" for one in series for n in range(MAX_PARTIES)]
    found = report_of("trainyard_federated_round 1", *lines).federation
    assert found is not None
    assert len(found.parties) == MAX_PARTIES
    assert len(parsed_lines) == len(lines) + 2 < MAX_LINES


# As the trainer's aggregator serves it.
FEDERATED = """\
# TYPE trainyard_federated_round gauge
trainyard_federated_round 12.0
# TYPE trainyard_federated_round_seconds gauge
trainyard_federated_round_seconds 1.5
# TYPE trainyard_federated_rounds_lost counter
trainyard_federated_rounds_lost_total 2.0
# TYPE trainyard_federated_best_round gauge
trainyard_federated_best_round 9.0
# TYPE trainyard_federated_party_state gauge
trainyard_federated_party_state{party="ann",state="Training"} 1.0
trainyard_federated_party_state{party="bob",state="Idle"} 0.0
trainyard_federated_party_state{party="bob",state="Refused"} 1.0
# TYPE trainyard_federated_party_rounds counter
trainyard_federated_party_rounds_total{party="ann"} 12.0
# TYPE trainyard_federated_party_samples gauge
trainyard_federated_party_samples{party="ann"} 303.0
# TYPE trainyard_federated_party_seconds gauge
trainyard_federated_party_seconds{party="ann"} 1.25
# TYPE trainyard_federated_updates_refused counter
trainyard_federated_updates_refused_total{party="bob",reason="NotFinite"} 2.0
trainyard_federated_updates_refused_total{party="bob",reason="ShapeMismatch"} 1.0
# EOF
"""


def test_all_metrics_of_an_aggregator_are_parsed() -> None:
    found = parse_report(FEDERATED, NOW).federation
    assert found == FederationReport(
        round=12,
        rounds_lost=2,
        best_round=9,
        round_seconds=1.5,
        parties={
            "ann": PartyReport(state="Training", rounds=12, samples=303, seconds=1.25),
            "bob": PartyReport(state="Refused", refused={"NotFinite": 2, "ShapeMismatch": 1}),
        },
    )


def test_a_coordinator_of_workers_has_no_metrics_of_rounds() -> None:
    assert parse_report(HONEST, NOW).federation is None


def test_no_more_parties_are_parsed_than_a_job_may_have() -> None:
    many = [f'trainyard_federated_party_state{{party="p{n}",state="Idle"}} 1.0' for n in range(300)]
    lines = ["# TYPE trainyard_federated_round gauge", "trainyard_federated_round 1.0"]
    found = report_of(*lines, "# TYPE trainyard_federated_party_state gauge", *many).federation
    assert found is not None
    assert len(found.parties) == 256


# What a trainer of a later version may add.
LATER = """\
# HELP trainyard_training_later_seconds Of a later version.
# TYPE trainyard_training_later_seconds gauge
# UNIT trainyard_training_later_seconds seconds
trainyard_training_later_seconds{state="active",x="1"} 3.0
# TYPE trainyard_training_latency histogram
trainyard_training_latency_bucket{le="1.0"} 2
trainyard_training_latency_bucket{le="+Inf"} 3 # {trace="a"} 1.5
trainyard_training_latency_count 3
trainyard_training_latency_sum 4.5
# TYPE trainyard_training_mode stateset
trainyard_training_mode{trainyard_training_mode="eager"} 1
# TYPE another_exporter unknown
another_exporter 1
# EOF
"""


both_kinds = pytest.mark.parametrize(
    "known", [pytest.param(HONEST, id="coordinator"), pytest.param(FEDERATED, id="aggregator")]
)


@both_kinds
def test_unknown_families_are_ignored(known: str) -> None:
    assert parse_report(known.replace("# EOF\n", LATER), NOW) == parse_report(known, NOW)


@both_kinds
def test_unknown_labels_are_ignored(known: str) -> None:
    labelled = re.sub(r"^(trainyard_\w+)\{", r'\1{unknown="x",', known, flags=re.MULTILINE)
    labelled = re.sub(r"^(trainyard_\w+) ", r'\1{unknown="x"} ', labelled, flags=re.MULTILINE)
    assert labelled.count("unknown") == known.count("\ntrainyard_")
    assert parse_report(labelled, NOW) == parse_report(known, NOW)


def sample_times(**figures: str) -> tuple[str, ...]:
    """The metrics of the spread in the configuration of `throughput`."""
    values = {"blocks": "12", "sample_seconds": "2e-3", "sample_seconds_deviation": "1e-4"}
    labels = 'nodes="1",workers="2",local_batch="8"'
    return tuple(
        f"trainyard_training_{name}{{{labels}}} {value}"
        for name, value in {**values, **figures}.items()
        if value
    )


def test_the_spread_of_a_measurement_is_parsed() -> None:
    (measured,) = report_of(throughput("5"), *sample_times()).profile
    assert measured.sample_times == SampleTimes(blocks=12, mean=2e-3, deviation=1e-4)


@pytest.mark.parametrize(
    "figures",
    [
        pytest.param({name: value}, id=f"{name} {value or 'missing'}")
        for name, values in {
            "blocks": ("", "NaN", "+Inf", "-1", "0", "1"),
            "sample_seconds": ("", "NaN", "+Inf", "-1", "0", "1e-300", "1e300"),
            "sample_seconds_deviation": ("", "NaN", "+Inf", "-1", "1e300"),
        }.items()
        for value in values
    ],
)
def test_an_impossible_spread_is_unknown_and_the_throughput_counts(figures: dict[str, str]) -> None:
    (measured,) = report_of(throughput("5"), *sample_times(**figures)).profile
    assert (measured.samples_per_second, measured.sample_times) == (5.0, None)


def test_blocks_beyond_counting_are_bounded() -> None:
    (measured,) = report_of(throughput("5"), *sample_times(blocks="1e300")).profile
    assert measured.sample_times is not None
    assert measured.sample_times.blocks == 2**31 - 1


def test_a_spread_of_another_configuration_is_not_taken() -> None:
    (measured,) = report_of(throughput("5", workers="3"), *sample_times()).profile
    assert measured.sample_times is None
