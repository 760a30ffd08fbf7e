"""Ways to end an aggregator's process at one exact moment, as `kill -9` would."""

import itertools
import os
import shutil
import signal
from collections.abc import Callable
from typing import Any


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _before(owner: Any, name: str, is_time: Callable[..., bool]) -> None:
    """Die as `owner.name` is called, when `is_time` says so of its arguments."""
    real = getattr(owner, name)

    def wrapped(*args: Any, **named: Any) -> Any:
        if is_time(*args, **named):
            die()
        return real(*args, **named)

    setattr(owner, name, wrapped)


def _after(owner: Any, name: str, is_time: Callable[..., bool]) -> None:
    """Die as `owner.name` returns."""
    real = getattr(owner, name)

    def wrapped(*args: Any, **named: Any) -> Any:
        result = real(*args, **named)
        if is_time(*args, **named):
            die()
        return result

    setattr(owner, name, wrapped)


def _without_spool() -> None:
    """Have the directory of the updates go as one comes in."""
    from trainyard_trainer.federated.server.spool import Spool, UpdateUpload

    real = UpdateUpload.feed

    def feed(self: UpdateUpload, data: bytes) -> None:
        shutil.rmtree(self._spool.directory, ignore_errors=True)
        real(self, data)

    Spool.reserve = lambda *_: False  # type: ignore[method-assign]
    UpdateUpload.feed = feed  # type: ignore[method-assign]


def install(fault: str) -> None:
    """`PHASE:ROUND`, the phase of which round to die in."""
    from trainyard_trainer.federated.server import store as archive
    from trainyard_trainer.federated.server.aggregator import Aggregator
    from trainyard_trainer.federated.server.spool import UpdateUpload
    from trainyard_trainer.runtime.checkpoint import CheckpointStore

    phase, _, text = fault.partition(":")
    number = int(text)

    def is_stored(_store: Any, _spool: Any, manifest: Any) -> bool:
        return bool(manifest.step == number)

    match phase:
        case "announced":  # As the first party is told of the round.
            _after(
                Aggregator,
                "announcement",
                lambda self, _: self.course.round == number and self.course.phase == "Open",
            )
        case "receiving":  # With part of an update in the spool.
            _after(
                UpdateUpload, "feed", lambda self, _: self.note is None or self.note.round == number
            )
        case "received":  # With one update safe in the spool, and others awaited.
            _after(Aggregator, "accept", lambda self, *_: self.course.round == number)
        case "folding":  # In the middle of the fold.
            folds = itertools.count(1)
            _before(archive, "fold", lambda *_, **__: next(folds) == number)
        case "lost":  # The disk of the updates is gone as one comes in; it ends by itself.
            _without_spool()
        case "storing":  # With all files written, before they get their name.
            _before(CheckpointStore, "keep_checkpoint", is_stored)
        case "stored":  # With the round safe, before the next one is announced.
            _after(CheckpointStore, "keep_checkpoint", is_stored)
        case "finishing":  # With the model of the result there, but not what it says.
            _after(archive, "_link", lambda _, target: target.name == "model.safetensors")
        case _:
            raise ValueError(f"no fault is called {phase}")
