"""The reference: the same Task, seed and global batch in one process, without Kubernetes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.cluster import ClusterError
from tests.demo.stage import job_manifest


def command(output: Path) -> list[str]:
    """The command line that trains the demo's job in one process."""
    spec = job_manifest()["spec"]
    training = spec["training"]
    args = [word for k, v in spec["task"]["args"].items() for word in ("--arg", f"{k}={v}")]
    return [
        *(sys.executable, "-m", "trainyard_trainer", "run", spec["task"]["use"], *args),
        *("--epochs", str(training["epochs"]), "--batch-size", str(training["batchSize"])),
        *("--seed", str(training["seed"]), "--output", str(output)),
    ]


def run_reference(output: Path) -> dict[str, Any]:
    """Train to the end; returns the result as `result.json` has it."""
    done = subprocess.run(command(output), check=False, text=True, capture_output=True)
    if done.returncode:
        raise ClusterError(f"the reference failed:\n{done.stderr[-1000:]}")
    result: dict[str, Any] = json.loads((output / "result.json").read_text())
    return result
