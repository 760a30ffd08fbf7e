"""The documents list the metrics, states, refusals and strategies of the code."""

import re
from pathlib import Path

import pytest

from trainyard_trainer.contract.federated import FederatedMetric, PartyState, RefusalReason
from trainyard_trainer.federated.aggregation.strategies import STRATEGIES

DOCS = Path(__file__).parents[4] / "docs"
METRICS = [value for name, value in vars(FederatedMetric).items() if name.isupper()]


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_of_federations_is_documented(name: str) -> None:
    assert re.search(rf"^\| `{name}(_total)?` \|", (DOCS / "metrics.md").read_text(), re.M)


def test_the_documented_metrics_of_federations_exist() -> None:
    documented = re.findall(
        r"^\| `(trainyard_federated_\w+?)(?:_total)?` \|", (DOCS / "metrics.md").read_text(), re.M
    )
    assert sorted(documented) == sorted(METRICS)


@pytest.mark.parametrize("word", [*RefusalReason, *STRATEGIES])
def test_every_refusal_and_strategy_is_documented(word: str) -> None:
    assert re.search(rf"^\|[^|]*`{word}`[^|]*\|", (DOCS / "federation.md").read_text(), re.M)


@pytest.mark.parametrize("word", PartyState)
def test_every_state_of_a_party_is_documented(word: str) -> None:
    assert f"`{word}`" in (DOCS / "metrics.md").read_text()
