"""Baselines: the Task of each job trained by one process, without Kubernetes.

That of the DistributedJob has the same seed and global batch; that of the FederatedJob trains on
the pooled data of all parties, for as many epochs as a party trains in all rounds.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.demo.environment import job_manifest
from tools.localcluster import ClusterError
from trainyard.api import names


def command(kind: str, output: Path) -> list[str]:
    """The command line that trains the demo's job of this kind in one process."""
    spec = job_manifest(kind)["spec"]
    training, args = spec["training"], spec["task"].get("args", {})
    task_args = [part for k, v in args.items() for part in ("--arg", f"{k}={v}")]
    is_federated = kind == names.FEDERATED_JOB
    epochs = spec["rounds"]["max"] * training["localEpochs"] if is_federated else training["epochs"]
    return [
        *(sys.executable, "-m", "trainyard_trainer", "run", spec["task"]["entrypoint"], *task_args),
        *("--epochs", str(epochs), "--batch-size", str(training["batchSize"])),
        *("--seed", str(training["seed"]), "--output", str(output)),
    ]


def run_baseline(kind: str, output: Path) -> dict[str, Any]:
    """Train the baseline; returns the content of `result.json`."""
    process = subprocess.run(command(kind, output), check=False, text=True, capture_output=True)
    if process.returncode:
        raise ClusterError(f"the baseline failed:\n{process.stderr[-1000:]}")
    result: dict[str, Any] = json.loads((output / "result.json").read_text())
    return result
