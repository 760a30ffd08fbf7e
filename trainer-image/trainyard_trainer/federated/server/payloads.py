"""What an aggregator sends and leaves: training configurations, result.json, its last message."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from trainyard_trainer.contract.exits import Result, TerminationMessage
from trainyard_trainer.contract.federated import FederatedConfig, PartyConfig
from trainyard_trainer.federated.protocol.messages import TrainConfig
from trainyard_trainer.federated.rounds.history import FederationHistory


def train_config_of(
    config: FederatedConfig, local: dict[str, float], party: PartyConfig
) -> TrainConfig:
    """The local training of a party; `local` holds the strategy's settings for it."""
    return TrainConfig(
        task=config.task,
        args={**config.args, **party.args},
        seed=config.seed,
        batch_size=config.batch_size,
        local_epochs=config.local_epochs,
        rounds=config.rounds.max,
        lr=party.lr,
        optimizer=asdict(config.optimizer) if config.optimizer is not None else None,
        local=local,
        target=config.target.metric if config.target is not None else "",
    )


def result_of(
    config: FederatedConfig, history: FederationHistory, round_: int, rounds_lost: int
) -> dict[str, Any]:
    """The content of result.json for the model of `round_`, without its checksum and the time."""
    last = history.last_round
    chosen = next((record for record in history.rounds if record.round == round_), last)
    return {
        "task": config.task,
        "args": config.args,
        "seed": config.seed,
        "strategy": asdict(config.strategy),
        "metrics": chosen.metrics,
        "loss": chosen.loss,
        "round": round_,
        "rounds": history.round,
        "rounds_lost": rounds_lost,
        "samples": history.samples_trained,
        "contributions": history.contributions,
        "history": [asdict(record) for record in history.rounds],
    }


def termination_message(
    history: FederationHistory, outcome: Result | None, result: Mapping[str, Any]
) -> TerminationMessage:
    """The state of a federation as its process ends; `result` is empty before it is complete."""
    metrics = history.last_round.metrics if history.rounds else {}
    if result:
        metrics = {k: v for k, v in (result.get("metrics") or {}).items() if v is not None}
    return TerminationMessage(
        result=outcome or Result.LEFT,
        step=max(0, history.round),
        samples=history.samples_trained,
        metrics=metrics,
    )
