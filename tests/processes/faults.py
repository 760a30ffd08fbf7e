"""Ways to end an aggregator's process at one exact moment, as `kill -9` would."""

import itertools
import os
import shutil
import signal
from collections.abc import Callable
from typing import Any


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _before(owner: Any, name: str, matches: Callable[..., bool]) -> None:
    """Die as `owner.name` is called with arguments that match."""
    real = getattr(owner, name)

    def wrapped(*args: Any, **named: Any) -> Any:
        if matches(*args, **named):
            die()
        return real(*args, **named)

    setattr(owner, name, wrapped)


def _after(owner: Any, name: str, matches: Callable[..., bool]) -> None:
    """Die as such a call returns."""
    real = getattr(owner, name)

    def wrapped(*args: Any, **named: Any) -> Any:
        result = real(*args, **named)
        if matches(*args, **named):
            die()
        return result

    setattr(owner, name, wrapped)


def _without_spool() -> None:
    """Delete the spool's directory during an upload."""
    from trainyard_trainer.federated.server.spool import Spool, UpdateUpload

    real = UpdateUpload.feed

    def feed(self: UpdateUpload, data: bytes) -> None:
        shutil.rmtree(self._spool.directory, ignore_errors=True)
        real(self, data)

    Spool.reserve = lambda *_: False  # type: ignore[method-assign]
    UpdateUpload.feed = feed  # type: ignore[method-assign]


def install(fault: str) -> None:
    """`PHASE:ROUND`, the phase of which round to die in."""
    from trainyard_trainer.federated.server import store
    from trainyard_trainer.federated.server.aggregator import Aggregator
    from trainyard_trainer.federated.server.spool import UpdateUpload
    from trainyard_trainer.runtime.checkpoint import CheckpointStore

    phase, _, text = fault.partition(":")
    number = int(text)

    def is_stored(_store: Any, _spool: Any, manifest: Any) -> bool:
        return bool(manifest.step == number)

    match phase:
        case "announced":  # As the first party receives the announcement.
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
        case "received":  # With one update in the spool, and others awaited.
            _after(Aggregator, "accept", lambda self, *_: self.machine.round == number)
        case "aggregating":  # As the aggregation starts.
            calls = itertools.count(1)
            _before(store, "aggregate", lambda *_, **__: next(calls) == number)
        case "lost":  # The spool disappears during an upload; the process ends by itself.
            _without_spool()
        case "storing":  # With all files written, before they are renamed.
            _before(CheckpointStore, "keep_checkpoint", is_stored)
        case "stored":  # With the round stored, before the next one is announced.
            _after(CheckpointStore, "keep_checkpoint", is_stored)
        case "finishing":  # With the model of the result written, but not result.json.
            _after(store, "_link", lambda _, target: target.name == "model.safetensors")
        case _:
            raise ValueError(f"unknown fault {phase}")
