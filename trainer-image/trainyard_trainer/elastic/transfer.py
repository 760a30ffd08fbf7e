"""Where a replica's state comes from: a survivor, a checkpoint, or the job's starting model."""

from __future__ import annotations

import time
from pathlib import Path

import aiohttp
import torch

from trainyard_trainer.contract.plan import Plan
from trainyard_trainer.elastic.process_group import ProcessGroup
from trainyard_trainer.runtime.exits import MemberUnfit, TaskInvalid
from trainyard_trainer.training import snapshot
from trainyard_trainer.training.loop import CollectiveError
from trainyard_trainer.training.replica import Replica
from trainyard_trainer.transport.connection import CoordinatorConnection


def broadcast_state(replica: Replica, group: ProcessGroup, root: int, *, adopts: bool) -> None:
    """Copy the state of rank `root` to all members that adopt it; raises CollectiveError.

    Two broadcasts: the length, then one flat buffer of the bytes that a checkpoint would hold. A
    replica adopts the state only once all of it has arrived.
    """
    is_source = group.rank == root
    data = replica.encode() if is_source else b""
    length = torch.tensor([len(data)], dtype=torch.int64, device=replica.device)
    group.broadcast_(length, root)
    payload = bytearray(data) if is_source else bytearray(int(length))
    flat = torch.frombuffer(payload, dtype=torch.uint8).to(replica.device)
    group.broadcast_(flat, root)
    if adopts and not is_source:
        received = flat.cpu().numpy().tobytes()
        replica.restore(received)
        check_restored(replica, received)


def check_restored(replica: Replica, received: bytes) -> None:
    """Raise MemberUnfit when the restored tensors are not those received, bit for bit."""
    expected, _ = snapshot.decode(received)
    restored, _ = replica.tensors()
    if snapshot.digest(expected) == snapshot.digest(restored):
        return
    names = [
        name
        for name in sorted(expected.keys() | restored.keys())
        if name not in expected
        or name not in restored
        or snapshot.digest({name: expected[name]}) != snapshot.digest({name: restored[name]})
    ]
    raise MemberUnfit(
        f"{len(names)} tensors are not as the other workers sent them once they are restored here, "
        f"{names[0]} the first: use the same image, arguments and data for all workers"
    )


def initialize_state(
    replica: Replica, connection: CoordinatorConnection, newest_plan: Plan | None
) -> None:
    """Start from the newest checkpoint, else from the job's starting model or the task's own.

    Raises CollectiveError when the coordinator, which stores checkpoints, cannot be reached.
    """
    try:
        data = connection.download("checkpoint")
        init = read_init(replica.config.init, connection) if data is None else None
    except (aiohttp.ClientError, OSError) as error:
        raise CollectiveError(f"the coordinator did not answer: {error}") from error
    if data is not None:
        replica.restore(data)
    elif init is not None:
        replica.start_from(init, replica.config.init)
    # The plan in a checkpoint made for a suspension no longer applies.
    stored = replica.plan if replica.plan is None or not replica.plan.suspend else None
    replica.plan = newest_plan or stored
    replica.notes.setdefault("born_at", time.time())


def read_init(path: str, connection: CoordinatorConnection) -> bytes | None:
    """The job's starting model: a file in this image, or one that the coordinator stores.

    Raises TaskInvalid when there is no file at `path`.
    """
    if not path:
        return None
    if Path(path).is_file():
        return Path(path).read_bytes()
    data = connection.download("init")
    if data is None:
        raise TaskInvalid(f"training.init: there is no file {path}")
    return data
