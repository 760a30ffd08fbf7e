"""What a finished training leaves: the model file and its result."""

from __future__ import annotations

import time
from typing import Any

from trainyard_trainer.contract.encoding import finite
from trainyard_trainer.training import snapshot
from trainyard_trainer.training.replica import Replica


def final_model(replica: Replica) -> bytes:
    """The trained model as a safetensors file, the result in its metadata."""
    return snapshot.encode(snapshot.file_tensors(replica.model), result(replica))


def result(replica: Replica) -> dict[str, Any]:
    """The content of result.json for a finished training; None where a figure is not finite."""
    born = replica.notes.get("born_at", time.time())
    values = {
        "task": replica.config.task,
        "args": replica.config.args,
        "seed": replica.config.seed,
        "metrics": replica.metrics,
        "loss": replica.loss,
        "finite": replica.is_finite,
        "non_finite_steps": replica.non_finite_steps,
        "steps": replica.step,
        "samples": replica.samples,
        "epochs": replica.cursor.epochs,
        "epochs_audited": replica.audit.epochs,
        "samples_wrong": replica.audit.wrong,
        "seconds": time.time() - born,
        "history": replica.notes.get("history", []),
    }
    strict: dict[str, Any] = finite(values)
    return strict
