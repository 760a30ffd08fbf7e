"""Configurations and Plans of both kinds, as coordinators decode them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.federations import PARTIES, make_federation
from tests.support.jobs import make_job
from trainyard.lifecycle.desired import DesiredPods, DesiredState, Phase
from trainyard.render.trainer_config import config_of, plan_of, with_generation
from trainyard_trainer.contract.config import JobConfig
from trainyard_trainer.contract.env import Role
from trainyard_trainer.contract.federated import FederatedConfig, FederatedPlan, OptimizerConfig
from trainyard_trainer.contract.plan import Plan

RUNNING = DesiredState(
    phase=Phase.RUNNING, pods=DesiredPods(coordinator=True, members=PARTIES, member_role=Role.PARTY)
)


def test_an_aggregator_decodes_what_the_spec_says() -> None:
    parties: list[dict[str, Any]] = [
        {"name": "bob", "lr": 0.5},
        {"name": "ann", "args": {"site": "a"}, "external": True},
    ]
    spec = {
        "parties": parties,
        "rounds": {"max": 7, "minParties": 1, "fraction": 0.5, "deadline": "1m30s", "patience": 2},
        "training": {
            "localEpochs": 3,
            "batchSize": 8,
            "seed": 4,
            "optimizer": {"name": "SGD", "lr": 0.1, "args": {"momentum": 0.9}},
            "target": {"metric": "eval/loss", "value": 0.1, "direction": "Min"},
        },
        "strategy": {"name": "FedProx", "args": {"mu": 0.1}},
        "state": {"claimName": "kept"},
    }
    config = config_of(make_federation(spec))
    assert isinstance(config, FederatedConfig)
    assert FederatedConfig.decode(config.encode()) == config
    assert [(p.name, p.lr, p.args, p.external) for p in config.parties] == [
        ("ann", None, {"site": "a"}, True),
        ("bob", 0.5, {}, False),
    ]
    rounds = config.rounds
    assert (rounds.max, rounds.min_parties, rounds.fraction, rounds.patience) == (7, 1, 0.5, 2)
    assert rounds.deadline_seconds == 90
    assert (config.local_epochs, config.batch_size, config.seed, config.durable) == (3, 8, 4, True)
    assert config.optimizer == OptimizerConfig(name="SGD", lr=0.1, args={"momentum": 0.9})
    assert config.target is not None
    assert config.target.reached(0.05)
    assert (config.strategy.name, config.strategy.args) == ("FedProx", {"mu": 0.1})


def test_a_coordinator_decodes_what_the_spec_says() -> None:
    config = config_of(make_job())
    assert isinstance(config, JobConfig)
    assert JobConfig.decode(config.encode()) == config


def test_a_plan_of_parties_is_decoded_again() -> None:
    plan = plan_of(make_federation(), RUNNING, None)
    assert isinstance(plan, FederatedPlan)
    assert FederatedPlan.decode(plan.encode()) == plan
    assert [party.name for party in plan.parties] == list(PARTIES)


@pytest.mark.parametrize(
    ("spec", "is_new"),
    [
        pytest.param({}, False, id="nothing"),
        pytest.param({"failure": {"maxRestarts": 3}}, False, id="what the aggregator ignores"),
        pytest.param({"rounds": {"minParties": 2, "max": 99}}, True, id="rounds"),
        pytest.param({"parties": [{"name": n} for n in (*PARTIES, "dan")]}, True, id="a party"),
        pytest.param({"parties": [{"name": n, "lr": 0.1} for n in PARTIES]}, True, id="a rate"),
    ],
)
def test_a_plan_is_new_when_its_content_changes(spec: dict[str, Any], is_new: bool) -> None:
    before = plan_of(make_federation(), RUNNING, None)
    assert before is not None
    sent = with_generation(before, 5)
    assert (plan_of(make_federation(spec), RUNNING, sent) != sent) is is_new


def test_another_fencing_token_makes_no_new_plan() -> None:
    sent = Plan(generation=4, workers=2, fencing_token=3)
    desired = DesiredState(
        phase=Phase.RUNNING, pods=DesiredPods(coordinator=True, members=range(2))
    )
    assert plan_of(make_job(), desired, sent) == sent


def test_there_is_no_plan_without_a_coordinator() -> None:
    assert plan_of(make_federation(), DesiredState(phase=Phase.WAITING), None) is None


def test_the_last_plan_stays_while_parties_exit_by_themselves() -> None:
    sent = plan_of(make_federation(), RUNNING, None)
    exiting = DesiredState(phase=Phase.RUNNING, pods=DesiredPods(coordinator=True, keeps_live=True))
    assert plan_of(make_federation(), exiting, sent) is sent
