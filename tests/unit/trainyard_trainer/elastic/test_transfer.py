"""The first state of a job: from a checkpoint, from a given model, or from the task."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch

from trainyard_trainer.contract.config import JobConfig
from trainyard_trainer.contract.plan import Plan
from trainyard_trainer.elastic.transfer import check_restored, initialize_state
from trainyard_trainer.runtime.exits import MemberUnfit
from trainyard_trainer.tasks.digits import Digits
from trainyard_trainer.training.replica import Replica
from trainyard_trainer.transport.connection import CoordinatorConnection

CONFIG = JobConfig(task="trainyard_trainer.tasks.digits:Digits")


class OneCheckpoint:
    """A connection to a coordinator that stores one checkpoint."""

    def __init__(self, checkpoint: bytes) -> None:
        self.checkpoint = checkpoint

    def download(self, kind: str) -> bytes | None:
        return self.checkpoint if kind == "checkpoint" else None


def replica(plan: Plan | None = None) -> Replica:
    made = Replica(Digits(), CONFIG, torch.device("cpu"))
    made.plan = plan
    return made


def plan_after_resuming(stored: Plan, newest: Plan | None) -> Plan | None:
    fresh = replica()
    connection: Any = OneCheckpoint(replica(stored).encode())
    initialize_state(fresh, cast(CoordinatorConnection, connection), newest)
    return fresh.plan


def test_the_plan_of_a_suspension_does_not_apply_when_training_resumes() -> None:
    assert plan_after_resuming(Plan(generation=2, workers=0, suspend=True), None) is None


def test_the_coordinators_plan_takes_precedence_over_the_checkpoints() -> None:
    newest = Plan(generation=3, workers=2)
    assert plan_after_resuming(Plan(generation=2, workers=1), newest) == newest


def test_without_a_plan_of_the_coordinator_the_checkpoints_applies() -> None:
    assert plan_after_resuming(Plan(generation=2, workers=1), None) == Plan(generation=2, workers=1)


def test_a_joiner_whose_restored_state_differs_cannot_take_part() -> None:
    source, joiner = replica(), replica()
    received = source.encode()
    joiner.restore(received)
    check_restored(joiner, received)
    name, parameter = next(joiner.model.named_parameters())
    with torch.no_grad():
        parameter[0] += 1.0
    with pytest.raises(MemberUnfit, match=f"1 tensors are not .* model.{name} the first"):
        check_restored(joiner, received)
