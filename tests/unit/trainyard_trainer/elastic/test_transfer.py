"""The first state of a job: from a checkpoint, from a given model, or from the task."""

from __future__ import annotations

from typing import Any, cast

import torch

from trainyard_trainer.contract.config import JobConfig
from trainyard_trainer.contract.plan import Plan
from trainyard_trainer.elastic.transfer import initialize_state
from trainyard_trainer.tasks.digits import Digits
from trainyard_trainer.training.replica import Replica
from trainyard_trainer.transport.link import CoordinatorConnection

CONFIG = JobConfig(task="trainyard_trainer.tasks.digits:Digits")


class Keeping:
    """A coordinator's side of downloads, with one checkpoint."""

    def __init__(self, checkpoint: bytes) -> None:
        self.checkpoint = checkpoint

    def download(self, kind: str) -> bytes | None:
        return self.checkpoint if kind == "checkpoint" else None


def replica(plan: Plan | None = None) -> Replica:
    made = Replica(Digits(), CONFIG, torch.device("cpu"))
    made.plan = plan
    return made


def resumed(stored: Plan, offered: Plan | None) -> Plan | None:
    fresh = replica()
    link: Any = Keeping(replica(stored).encode())
    initialize_state(fresh, cast(CoordinatorConnection, link), offered)
    return fresh.plan


def test_the_plan_of_a_suspension_has_passed_when_training_resumes() -> None:
    assert resumed(Plan(generation=2, workers=0, suspend=True), None) is None


def test_a_plan_that_is_offered_comes_before_the_checkpoints() -> None:
    offered = Plan(generation=3, workers=2)
    assert resumed(Plan(generation=2, workers=1), offered) == offered


def test_without_an_offer_the_checkpoints_plan_goes_on() -> None:
    assert resumed(Plan(generation=2, workers=1), None) == Plan(generation=2, workers=1)
