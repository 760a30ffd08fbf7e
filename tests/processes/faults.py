"""Fault injection: an aggregator is killed in an exact phase, a worker cannot connect."""

import itertools
import os
import shutil
import signal
from collections.abc import Callable
from datetime import timedelta
from typing import Any


def kill_self() -> None:
    """Send SIGKILL to this process."""
    os.kill(os.getpid(), signal.SIGKILL)


def _before(owner: Any, name: str, matches: Callable[..., bool]) -> None:
    """Kill the process before a call of `owner.name` with arguments that match."""
    real = getattr(owner, name)

    def wrapped(*args: Any, **named: Any) -> Any:
        if matches(*args, **named):
            kill_self()
        return real(*args, **named)

    setattr(owner, name, wrapped)


def _after(owner: Any, name: str, matches: Callable[..., bool]) -> None:
    """Kill the process after a call of `owner.name` with arguments that match."""
    real = getattr(owner, name)

    def wrapped(*args: Any, **named: Any) -> Any:
        result = real(*args, **named)
        if matches(*args, **named):
            kill_self()
        return result

    setattr(owner, name, wrapped)


def _delete_spool() -> None:
    """Delete the spool's directory during an upload."""
    from trainyard_trainer.federated.server.spool import Spool, UpdateUpload

    real = UpdateUpload.feed

    def feed(self: UpdateUpload, data: bytes) -> None:
        shutil.rmtree(self._spool.directory, ignore_errors=True)
        real(self, data)

    Spool.reserve = lambda *_: False  # type: ignore[method-assign]
    UpdateUpload.feed = feed  # type: ignore[method-assign]


def refuse_rendezvous() -> None:
    """Have this worker meet the others where nobody listens, and wait for them only briefly."""
    from trainyard_trainer.elastic import process_group

    owner: Any = process_group.Rendezvous
    real = owner.create_group

    def create_group(self: Any, _address: str, *args: Any) -> Any:
        return real(self, "127.0.0.1:1", *args)

    process_group.BUILD_TIMEOUT = timedelta(seconds=1)  # type: ignore[misc]
    owner.create_group = create_group


def install(fault: str) -> None:
    """Install the fault `PHASE:ROUND`."""
    from trainyard_trainer.federated.server import store
    from trainyard_trainer.federated.server.aggregator import Aggregator
    from trainyard_trainer.federated.server.spool import UpdateUpload
    from trainyard_trainer.runtime.checkpoint import CheckpointStore

    phase, _, text = fault.partition(":")
    number = int(text)

    def is_stored(_store: Any, _spool: Any, manifest: Any) -> bool:
        return bool(manifest.step == number)

    match phase:
        case "announced":  # After the announcement to the first party.
            _after(
                Aggregator,
                "announcement",
                lambda self, _: self.machine.round == number and self.machine.phase == "Open",
            )
        case "receiving":  # With part of an update in the spool.
            _after(
                UpdateUpload,
                "feed",
                lambda self, _: self.metadata is None or self.metadata.round == number,
            )
        case "received":  # With one update in the spool, before the others.
            _after(Aggregator, "accept", lambda self, *_: self.machine.round == number)
        case "aggregating":  # Before the aggregation.
            calls = itertools.count(1)
            _before(store, "aggregate", lambda *_, **__: next(calls) == number)
        case "lost":  # The spool is deleted during an upload; the process exits by itself.
            _delete_spool()
        case "storing":  # With all files written, before they are renamed.
            _before(CheckpointStore, "keep_checkpoint", is_stored)
        case "stored":  # With the round stored, before the next one is announced.
            _after(CheckpointStore, "keep_checkpoint", is_stored)
        case "finishing":  # With the model of the result written, but not result.json.
            _after(store, "_link", lambda _, target: target.name == "model.safetensors")
        case _:
            raise ValueError(f"unknown fault {phase}")
