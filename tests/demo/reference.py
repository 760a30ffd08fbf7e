"""The references: each job's Task in one process, without Kubernetes.

The DistributedJob's with the same seed and global batch; the FederatedJob's on the pooled data of
its parties, which is what no federation has, for as many epochs as a party makes in all rounds.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.demo.stage import job_manifest
from tools.localcluster import ClusterError
from trainyard.api import names


def command(kind: str, output: Path) -> list[str]:
    """The command line that trains the demo's job of this kind in one process."""
    spec = job_manifest(kind)["spec"]
    training, args = spec["training"], spec["task"].get("args", {})
    words = [word for k, v in args.items() for word in ("--arg", f"{k}={v}")]
    is_federated = kind == names.FEDERATED_JOB
    epochs = spec["rounds"]["max"] * training["localEpochs"] if is_federated else training["epochs"]
    return [
        *(sys.executable, "-m", "trainyard_trainer", "run", spec["task"]["entrypoint"], *words),
        *("--epochs", str(epochs), "--batch-size", str(training["batchSize"])),
        *("--seed", str(training["seed"]), "--output", str(output)),
    ]


def run_reference(kind: str, output: Path) -> dict[str, Any]:
    """Train to the end; returns the result as `result.json` has it."""
    done = subprocess.run(command(kind, output), check=False, text=True, capture_output=True)
    if done.returncode:
        raise ClusterError(f"the reference failed:\n{done.stderr[-1000:]}")
    result: dict[str, Any] = json.loads((output / "result.json").read_text())
    return result
