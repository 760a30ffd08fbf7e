"""How a replica comes by its state: from a survivor, from a checkpoint, or from a given model."""

from __future__ import annotations

import time
from pathlib import Path

import aiohttp
import torch

from trainyard_trainer.contract.plan import Plan
from trainyard_trainer.elastic.process_group import ProcessGroup
from trainyard_trainer.runtime.exits import TaskInvalid
from trainyard_trainer.training.loop import CollectiveError
from trainyard_trainer.training.replica import Replica
from trainyard_trainer.transport.link import CoordinatorConnection


def broadcast_state(replica: Replica, group: ProcessGroup, root: int, *, takes: bool) -> None:
    """Copy the state of rank `root` to all members that take it; raises CollectiveError.

    Two broadcasts: the length, then one flat buffer of the bytes that a checkpoint would hold. A
    replica takes the state only when all of it has come.
    """
    is_source = group.rank == root
    data = replica.encode() if is_source else b""
    length = torch.tensor([len(data)], dtype=torch.int64, device=replica.device)
    group.broadcast_(length, root)
    held = bytearray(data) if is_source else bytearray(int(length))
    flat = torch.frombuffer(held, dtype=torch.uint8).to(replica.device)
    group.broadcast_(flat, root)
    if takes and not is_source:
        replica.restore(flat.cpu().numpy().tobytes())


def initialize_state(replica: Replica, link: CoordinatorConnection, offered: Plan | None) -> None:
    """The first state of all: the newest checkpoint, else what the task starts from.

    Raises CollectiveError when the coordinator, who keeps checkpoints, cannot be reached.
    """
    try:
        data = link.download("checkpoint")
        init = read_init(replica.config.init, link) if data is None else None
    except (aiohttp.ClientError, OSError) as error:
        raise CollectiveError(f"the coordinator did not answer: {error}") from error
    if data is not None:
        replica.restore(data)
    elif init is not None:
        replica.start_from(init, replica.config.init)
    # The plan of a checkpoint that was made for a suspension has passed.
    kept = replica.plan if replica.plan is None or not replica.plan.suspend else None
    replica.plan = offered or kept
    replica.notes.setdefault("born_at", time.time())


def read_init(path: str, link: CoordinatorConnection) -> bytes | None:
    """The job's starting model: a file of this image, or one in the coordinator's keeping.

    Raises TaskInvalid when there is none at `path`.
    """
    if not path:
        return None
    if Path(path).is_file():
        return Path(path).read_bytes()
    data = link.download("init")
    if data is None:
        raise TaskInvalid(f"training.init: there is no file {path}")
    return data
