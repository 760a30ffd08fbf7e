"""The device that this process trains on, and its share of the CPU."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

import torch

from trainyard_trainer.runtime.exits import NoDevice

log = logging.getLogger(__name__)

CGROUP: Final = Path("/sys/fs/cgroup")


def choose_device(*, is_required: bool = False) -> torch.device:
    """CUDA where there is one; else the CPU, in one thread when the share is one core or less.

    Raises NoDevice without CUDA where a device is required.
    """
    if torch.cuda.is_available():
        return torch.device("cuda")
    if is_required:
        raise NoDevice(f"this pod requests a GPU, and PyTorch finds none: {why_no_cuda()}")
    cores = cpu_share()
    if cores is not None and cores <= 1.0:
        # More threads than cores would spend the quota on waiting for each other.
        torch.set_num_threads(1)
    log.info("no GPU here: training on the CPU with %d threads", torch.get_num_threads())
    return torch.device("cpu")


def why_no_cuda() -> str:
    """What PyTorch says when CUDA is used, on one line: the driver's words or its own."""
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:  # AssertionError: built without CUDA
        return " ".join(str(error).split())
    return "no CUDA device is available"


def cpu_share(root: Path = CGROUP) -> float | None:
    """The cores that the cgroup's quota allows; None without a quota. Reads version 2, then 1."""
    try:
        quota, period = (root / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:
        quota_us = int((root / "cpu" / "cpu.cfs_quota_us").read_text())
        period_us = int((root / "cpu" / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
    return quota_us / period_us if quota_us > 0 else None
