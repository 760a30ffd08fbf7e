"""What an aggregator tells: its parties what to do, and whoever reads the result how it went."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from trainyard_trainer.contract.federated import FederatedConfig, PartyConfig
from trainyard_trainer.federated.protocol.messages import TrainConfig
from trainyard_trainer.federated.rounds.history import FederationHistory


def train_config_of(
    config: FederatedConfig, local: dict[str, float], party: PartyConfig
) -> TrainConfig:
    """The local training of a party; `local` is what the strategy adds to it."""
    return TrainConfig(
        task=config.task,
        args={**config.args, **party.args},
        seed=config.seed,
        batch_size=config.batch_size,
        local_epochs=config.local_epochs,
        lr=party.lr,
        optimizer=asdict(config.optimizer) if config.optimizer is not None else None,
        local=local,
        target=config.target.metric if config.target is not None else "",
    )


def summary(
    config: FederatedConfig, record: FederationHistory, round_: int, lost: int
) -> dict[str, Any]:
    """What result.json says of the model of `round_`, but for the model itself and the time."""
    chosen = next((past for past in record.history if past.round == round_), record.last)
    return {
        "task": config.task,
        "args": config.args,
        "seed": config.seed,
        "strategy": asdict(config.strategy),
        "metrics": chosen.metrics,
        "loss": chosen.loss,
        "round": round_,
        "rounds": record.round,
        "rounds_lost": lost,
        "samples": record.trained,
        "contributions": record.contributions,
        "history": [asdict(past) for past in record.history],
    }
