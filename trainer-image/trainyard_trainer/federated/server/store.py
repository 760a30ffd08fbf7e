"""The state directory of a federation: each round's model, durable before the next round opens.

Only this module writes there. A round is a checkpoint of `runtime.checkpoint`, fenced by term,
with two more files in its folder: `history.json` and, for a strategy that has state,
`slots.safetensors`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from trainyard_trainer.contract.encoding import finite
from trainyard_trainer.contract.env import MODEL_FILE, RESULT_FILE
from trainyard_trainer.coordinator.state import init_root, read_result
from trainyard_trainer.federated.aggregation.aggregate import (
    AggregateNotFinite,
    Update,
    aggregate,
    initialize_slots,
    slot_layout,
)
from trainyard_trainer.federated.aggregation.strategies import Strategy
from trainyard_trainer.federated.protocol.layout import (
    LENGTH_BYTES,
    MAX_HEADER_BYTES,
    Bytes,
    Layout,
    parse_header,
)
from trainyard_trainer.federated.rounds.history import Best, FederationHistory
from trainyard_trainer.runtime import checkpoint, modelfile
from trainyard_trainer.runtime.checkpoint import (
    CHUNK_BYTES,
    STATE,
    CheckpointManifest,
    CheckpointStore,
)
from trainyard_trainer.runtime.exits import TaskInvalid

KEPT_ROUNDS: Final = 2
CHECKPOINTS: Final = KEPT_ROUNDS + 1
"""Rounds on disk at once: the next is written before the oldest is removed."""
MODELS: Final = CHECKPOINTS + 1
"""Their models and the best one."""
HISTORY_FILE: Final = "history.json"
SLOTS_FILE: Final = "slots.safetensors"
BEST_FILE: Final = "best.json"
IN_PROGRESS_FILE: Final = "in-progress.json"
"""Whether a round may be in flight: a term that finds it so knows that the last one crashed."""


class StoredHistory(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a round's `history.json`."""

    history: FederationHistory
    slots: str = ""
    """SHA-256 of the strategy's state; empty without any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """A model file as parties download it."""

    path: Path
    size: int
    """In bytes."""
    checksum: int
    """CRC-32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredModel(ModelFile):
    """A round's model, mapped into memory."""

    layout: Layout
    data: Bytes
    sha256: str
    """Of the file."""


class RoundStore:
    """A federation's state directory under one term."""

    def __init__(self, directory: Path, term: int, strategy: Strategy) -> None:
        """Take over `directory` and load the newest round; raises Fenced or StateUnusable."""
        self.checkpoints = CheckpointStore(directory, term, keep=KEPT_ROUNDS)
        self.directory, self._strategy = directory, strategy
        self.model: StoredModel | None = None
        """The global model."""
        self.history = FederationHistory()
        self.result = read_result(directory)
        """The content of result.json; empty until the federation is complete."""
        self._resume()

    def open_spool(self) -> Path:
        """An empty folder for updates; the next term deletes it."""
        return self.checkpoints.open_spool()

    def find_init(self, init: str) -> Path | None:
        """The job's starting model, if it has one.

        Raises TaskInvalid for a missing file, or one outside the state directory.
        """
        if not init:
            return None
        root = init_root(self.directory).resolve()
        path = (root / init).resolve()
        if not path.is_relative_to(root):
            raise TaskInvalid(f"training.init is {init!r}, which is outside the state directory")
        if _is_pickled(path):
            raise TaskInvalid(f"training.init: {modelfile.pickled(init)}")
        if not _is_safetensors(path):
            raise TaskInvalid(f"training.init is {init!r}, which is not a safetensors file here")
        return path

    # --- crashes --------------------------------------------------------------------------------

    def mark_in_progress(self) -> int:
        """Mark rounds as in flight; the number of rounds lost so far, including by a crash."""
        path = self.directory / IN_PROGRESS_FILE
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            found = json.loads(path.read_bytes())
            lost = int(found["lost"]) + bool(found["open"])
            self.mark(lost, in_progress=True)
            return lost
        self.mark(0, in_progress=True)
        return 0

    def mark(self, lost: int, *, in_progress: bool) -> None:
        """Record the number of rounds lost, and whether one may be in flight."""
        text = json.dumps({"lost": lost, "open": in_progress})
        checkpoint.write_atomically(self.directory / IN_PROGRESS_FILE, text.encode())

    # --- rounds ---------------------------------------------------------------------------------

    def initialize(self, layout: Layout, data: Bytes, history: FederationHistory) -> None:
        """Store a party's upload as the model of round 0.

        Raises StateUnusable when the rounds to come would not fit.
        """
        slots = slot_layout(layout, self._strategy)
        rounds = MODELS * layout.size + CHECKPOINTS * slots.size
        self.checkpoints.check_space(rounds + _result_bytes(layout))
        folder = self.checkpoints.open_spool()
        self._create(folder / STATE, layout, {"round": 0})[:] = data
        if slots.entries:
            data = self._create(folder / SLOTS_FILE, slots, {})
            initialize_slots(layout, self._strategy, data)
        self._commit(folder, layout, history)

    def required_bytes(self, layout: Layout) -> int:
        """What a model needs here: two rounds with the strategy's state, the best, the result."""
        rounds = 3 * layout.size + 2 * slot_layout(layout, self._strategy).size
        return rounds + _result_bytes(layout)

    def aggregate(self, updates: Sequence[Update], history: FederationHistory) -> None:
        """Aggregate `updates` into the global model, and store the next one with `history`.

        Raises AggregateNotFinite, and then stores nothing.
        """
        assert self.model is not None  # noqa: S101 -- no round opens before there is one
        layout, folder = self.model.layout, self.checkpoints.open_spool()
        out = self._create(folder / STATE, layout, {"round": history.round})
        slots = np.empty(0, np.uint8)
        if slot_layout(layout, self._strategy).entries:
            shutil.copyfile(self.model.path.parent / SLOTS_FILE, folder / SLOTS_FILE)
            slots = _map(folder / SLOTS_FILE, "r+")[1]
        try:
            aggregate(layout, self._strategy, updates, base=self.model.data, slots=slots, out=out)
        except AggregateNotFinite:
            shutil.rmtree(folder)
            raise
        self._commit(folder, layout, history)

    def _create(self, path: Path, layout: Layout, document: dict[str, Any]) -> Bytes:
        """Create a file of `layout`; returns its tensors, mapped for writing."""
        with path.open("wb") as file:
            file.write(layout.header(document))
            file.flush()
            if layout.size:
                # A full disk raises an error here, rather than SIGBUS during the aggregation.
                os.posix_fallocate(file.fileno(), file.tell(), layout.size)
        return _map(path, "r+")[1]

    def _commit(self, folder: Path, layout: Layout, history: FederationHistory) -> None:
        history = _readable(history)
        sha256, crc32, size = _checksums(folder / STATE)
        has_slots = (folder / SLOTS_FILE).exists()
        slots = _checksums(folder / SLOTS_FILE)[0] if has_slots else ""
        stored = msgspec.json.encode(StoredHistory(history=history, slots=slots))
        checkpoint.write_atomically(folder / HISTORY_FILE, stored)
        manifest = CheckpointManifest(
            term=self.checkpoints.term, step=history.round, sha256=sha256, size=size
        )
        path = self.checkpoints.keep_checkpoint(folder, manifest) / STATE
        data = _map(path, "r")[1]
        self.history = history
        self.model = StoredModel(
            path=path, layout=layout, data=data, sha256=sha256, checksum=crc32, size=size
        )

    def _resume(self) -> None:
        """Load the newest whole round; raises StateUnusable when all are damaged."""

        def check(folder: Path) -> None:
            stored = _read_history(folder)
            if stored.slots and checkpoint.checksum(folder / SLOTS_FILE) != stored.slots:
                raise ValueError("the strategy's state does not match its checksum")

        if (newest := self.checkpoints.resume(check)) is None:
            return
        path, manifest = newest
        layout, data = _map(path, "r")
        sha256, crc32, size = _checksums(path)
        self.model = StoredModel(
            path=path, layout=layout, data=data, sha256=sha256, checksum=crc32, size=size
        )
        self.history = _read_history(path.parent).history
        if (best := self._read_best()) is not None and best.round <= manifest.step:
            self.history = replace(self.history, best=best)

    # --- the best model, and the result ---------------------------------------------------------

    def keep_best(self, best: Best) -> None:
        """Keep the global model as the best so far."""
        assert self.model is not None  # noqa: S101 -- it has been evaluated
        self.checkpoints.check_term()
        path = self._best_path(best.round)
        _link(self.model.path, path)
        checkpoint.write_atomically(self.directory / BEST_FILE, msgspec.json.encode(best))
        for old in self.directory.glob("best-*.safetensors"):
            if old != path:
                old.unlink()

    def _read_best(self) -> Best | None:
        try:
            best = msgspec.json.decode((self.directory / BEST_FILE).read_bytes(), type=Best)
        except (OSError, ValueError):
            return None
        return best if self._best_path(best.round).is_file() else None

    def _best_path(self, round_: int) -> Path:
        return self.directory / f"best-{round_:012d}.safetensors"

    def finish(self, round_: int, result: dict[str, Any]) -> None:
        """Make the model of `round_`, which is the last or the best one, the result."""
        assert self.model is not None  # noqa: S101 -- there is a result
        self.checkpoints.check_term()
        is_last = round_ == self.history.round
        path, target = self._best_path(round_), self.directory / MODEL_FILE
        self._publish(self.model.path if is_last else path, target, round_)
        model = {"sha256": checkpoint.checksum(target), "bytes": target.stat().st_size}
        self.result = finite({**result, "model": model, "term": self.checkpoints.term})
        text = json.dumps(self.result, indent=1, sort_keys=True, allow_nan=False)
        checkpoint.write_atomically(self.directory / RESULT_FILE, text.encode())

    def _publish(self, source: Path, target: Path, round_: int) -> None:
        """Write the model file of a round with the names of the model's `state_dict`."""
        layout, data = _map(source, "r")
        published = layout.published
        if published == layout:
            _link(source, target)
            return
        starts = {n.name: start for e, start in layout.offsets() for n in e.published}
        draft = target.with_name(f".{target.name}.{os.getpid()}")
        out = self._create(draft, published, {"round": round_})
        for entry, at in published.offsets():
            start = starts[entry.name]
            out[at : at + entry.size] = data[start : start + entry.size]
        del out  # Unmapped, so that all of it is in the file.
        with draft.open("rb+") as file:
            checkpoint.sync_file(file)
        draft.rename(target)


def _result_bytes(layout: Layout) -> int:
    """What the result's file needs, unless it is the last round's."""
    return 0 if layout.published == layout else layout.published.size


def model_file(path: Path) -> ModelFile:
    """Any model file on disk, with its checksum."""
    checksum = 0
    for chunk in checkpoint.chunks(path):
        checksum = zlib.crc32(chunk, checksum)
    return ModelFile(path=path, size=path.stat().st_size, checksum=checksum)


def _is_pickled(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return modelfile.is_pickled(file.read(modelfile.START_BYTES))
    except OSError:
        return False


def _is_safetensors(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(LENGTH_BYTES), "little")
            is_bounded = length <= MAX_HEADER_BYTES
            return is_bounded and isinstance(json.loads(file.read(length)), dict)
    except (OSError, ValueError, RecursionError):
        return False


def _readable(history: FederationHistory) -> FederationHistory:
    """The history without figures that JSON does not have, which could not be read again."""
    rounds = tuple(
        replace(
            record,
            loss=finite(record.loss),
            seconds=finite(record.seconds) or 0.0,
            metrics={k: v for k, v in record.metrics.items() if math.isfinite(v)},
        )
        for record in history.rounds
    )
    best = history.best if history.best is not None and math.isfinite(history.best.value) else None
    return replace(history, rounds=rounds, best=best)


def _read_history(folder: Path) -> StoredHistory:
    return msgspec.json.decode((folder / HISTORY_FILE).read_bytes(), type=StoredHistory)


def _map(path: Path, mode: Any) -> tuple[Layout, Bytes]:
    """A file's layout, and its tensors mapped into memory; raises ValueError."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        layout, _ = parse_header(file.read(length))
    if not layout.size:
        return layout, np.empty(0, np.uint8)
    return layout, np.memmap(path, np.uint8, mode, offset=LENGTH_BYTES + length)


def _checksums(path: Path) -> tuple[str, int, int]:
    """SHA-256, CRC-32 and size of a file, which is durable when this returns."""
    sha256, crc32, size = hashlib.sha256(), 0, 0
    with path.open("rb+") as file:
        while chunk := file.read(CHUNK_BYTES):
            sha256.update(chunk)
            crc32 = zlib.crc32(chunk, crc32)
            size += len(chunk)
        os.fsync(file.fileno())
    return sha256.hexdigest(), crc32, size


def _link(source: Path, target: Path) -> None:
    """Atomically make `target` the same file as `source`; a copy where links are unsupported."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
        with temporary.open("rb+") as file:
            checkpoint.sync_file(file)
    temporary.rename(target)
