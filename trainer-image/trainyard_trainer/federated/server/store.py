"""The state directory of a federation: each round's model, whole on disk before the next opens.

It stands apart because it is the only room that writes there. A round is a checkpoint of
`checkpoint.Store`, claimed by term, with two more files in its folder: `record.json` (what is
remembered of the rounds) and, for a strategy that keeps any, its state in `slots.safetensors`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from trainyard_trainer.contract.env import MODEL_FILE, RESULT_FILE, STATE_DIR
from trainyard_trainer.federated.aggregation.aggregate import (
    Update,
    aggregate,
    fill_slots,
    slot_layout,
)
from trainyard_trainer.federated.aggregation.strategies import Strategy
from trainyard_trainer.federated.protocol.layout import (
    HEADER_BYTES,
    LENGTH_BYTES,
    Bytes,
    Layout,
    parse,
)
from trainyard_trainer.federated.rounds.history import Best, FederationHistory
from trainyard_trainer.runtime import checkpoint
from trainyard_trainer.runtime.checkpoint import (
    CHUNK_BYTES,
    STATE,
    CheckpointManifest,
    CheckpointStore,
)
from trainyard_trainer.runtime.exits import TaskInvalid

RECORD: Final = "record.json"
SLOTS: Final = "slots.safetensors"
BEST: Final = "best.json"
IN_PROGRESS: Final = "sitting.json"
"""There while rounds are in flight: a term that finds it knows that the last one did not end."""


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a round's `record.json`."""

    record: FederationHistory
    slots: str = ""
    """SHA-256 of the strategy's state; empty without any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model on disk, mapped into memory."""

    path: Path
    layout: Layout
    data: Bytes
    sha256: str
    """Of the file."""
    checksum: int
    """CRC-32 of the file."""
    size: int
    """Of the file."""


class RoundStore:
    """A federation's state directory under one term."""

    def __init__(self, directory: Path, term: int, strategy: Strategy) -> None:
        """Claim `directory`; raises Fenced or StateUnusable."""
        self.store = CheckpointStore(directory, term, keep=2)
        self.directory, self._strategy = directory, strategy
        self.model: Model | None = None
        self.record = FederationHistory()
        self.result = self._result()
        """The content of result.json, once the federation is complete."""
        self._resume()

    def spool(self) -> Path:
        """An empty folder for updates; the next term's claim removes it."""
        return self.store.open_spool()

    def find_init(self, init: str) -> Path | None:
        """The job's starting model; raises TaskInvalid when there is no such file."""
        if not init:
            return None
        # Jobs may share a claim, so that one can start from another's model.
        is_inside_pod = self.directory.is_relative_to(STATE_DIR)
        path = (Path(STATE_DIR) if is_inside_pod else self.directory) / init
        try:
            with path.open("rb") as file:
                length = int.from_bytes(file.read(LENGTH_BYTES), "little")
                is_model = length <= HEADER_BYTES and isinstance(
                    json.loads(file.read(length)), dict
                )
        except (OSError, ValueError, RecursionError):
            is_model = False
        if not is_model:
            raise TaskInvalid(f"training.init is {init!r}, which is no safetensors file here")
        return path

    # --- terms ----------------------------------------------------------------------------------

    def mark_in_progress(self) -> int:
        """Say that rounds are in flight; how many were lost so far, those of a crash included."""
        path = self.directory / IN_PROGRESS
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            found = json.loads(path.read_bytes())
            lost = int(found["lost"]) + bool(found["open"])
            self.mark(lost, is_open=True)
            return lost
        self.mark(0, is_open=True)
        return 0

    def mark(self, lost: int, *, is_open: bool) -> None:
        """Keep the number of rounds lost, and whether one may be in flight."""
        text = json.dumps({"lost": lost, "open": is_open})
        checkpoint.write_atomically(self.directory / IN_PROGRESS, text.encode())

    # --- rounds ---------------------------------------------------------------------------------

    def initialize(self, layout: Layout, data: Bytes, record: FederationHistory) -> None:
        """Make a party's upload the model of round 0."""
        folder = self.store.open_spool()
        self._write(folder / STATE, layout, {"round": 0})[:] = data
        slots = slot_layout(layout, self._strategy)
        if slots.entries:
            fill_slots(layout, self._strategy, self._write(folder / SLOTS, slots, {}))
        self._keep(folder, layout, record)

    def aggregate(self, updates: Sequence[Update], record: FederationHistory) -> None:
        """Fold `updates` into the model in force, and make that the model of `record.round`."""
        assert self.model is not None  # noqa: S101 -- no round opens before there is one
        layout, folder = self.model.layout, self.store.open_spool()
        out = self._write(folder / STATE, layout, {"round": record.round})
        slots = np.empty(0, np.uint8)
        if slot_layout(layout, self._strategy).entries:
            shutil.copyfile(self.model.path.parent / SLOTS, folder / SLOTS)
            slots = _map(folder / SLOTS, "r+")[1]
        aggregate(layout, self._strategy, updates, base=self.model.data, slots=slots, out=out)
        self._keep(folder, layout, record)

    def _write(self, path: Path, layout: Layout, document: dict[str, Any]) -> Bytes:
        """Make a file of `layout`; its tensors, to be written."""
        with path.open("wb") as file:
            file.write(layout.header(document))
            file.flush()
            if layout.size:
                # A full disk shows here, and not as a crash in the middle of the fold.
                os.posix_fallocate(file.fileno(), file.tell(), layout.size)
        return _map(path, "r+")[1]

    def _keep(self, folder: Path, layout: Layout, record: FederationHistory) -> None:
        summary, checksum, size = _summarize(folder / STATE)
        has_slots = (folder / SLOTS).exists()
        slots = _summarize(folder / SLOTS)[0] if has_slots else ""
        stored = msgspec.json.encode(Stored(record=record, slots=slots))
        checkpoint.write_atomically(folder / RECORD, stored)
        manifest = CheckpointManifest(
            term=self.store.term, step=record.round, sha256=summary, size=size
        )
        path = self.store.keep_checkpoint(folder, manifest) / STATE
        self.record = record
        self.model = Model(
            path=path,
            layout=layout,
            data=_map(path, "r")[1],
            sha256=summary,
            checksum=checksum,
            size=size,
        )

    def _resume(self) -> None:
        """Take the newest whole round for the one in force."""

        def check(folder: Path) -> None:
            stored = msgspec.json.decode((folder / RECORD).read_bytes(), type=Stored)
            if stored.slots and checkpoint.checksum(folder / SLOTS) != stored.slots:
                raise ValueError("the strategy's state does not have its checksum")

        if (newest := self.store.newest(check)) is None:
            return
        path, manifest = newest
        stored = msgspec.json.decode((path.parent / RECORD).read_bytes(), type=Stored)
        layout, data = _map(path, "r")
        summary, checksum, size = _summarize(path)
        self.model = Model(
            path=path, layout=layout, data=data, sha256=summary, checksum=checksum, size=size
        )
        self.record = stored.record
        if (best := self._best()) is not None and best.round <= manifest.step:
            self.record = replace(self.record, best=best)

    # --- the best, and the result ---------------------------------------------------------------

    def keep_best(self, best: Best) -> None:
        """Keep the model in force as the best so far."""
        assert self.model is not None  # noqa: S101 -- it has been evaluated
        self.store.check_term()
        name = f"best-{best.round:012d}.safetensors"
        _link(self.model.path, self.directory / name)
        checkpoint.write_atomically(self.directory / BEST, msgspec.json.encode(best))
        for old in self.directory.glob("best-*.safetensors"):
            if old.name != name:
                old.unlink()

    def _best(self) -> Best | None:
        try:
            best = msgspec.json.decode((self.directory / BEST).read_bytes(), type=Best)
        except (OSError, ValueError):
            return None
        return best if self._best_path(best.round).is_file() else None

    def _best_path(self, round_: int) -> Path:
        return self.directory / f"best-{round_:012d}.safetensors"

    def finish(self, round_: int, result: dict[str, Any]) -> None:
        """Make the model of `round_` (the one in force or the best) the result."""
        assert self.model is not None  # noqa: S101 -- there is a result
        self.store.check_term()
        is_last = round_ == self.record.round
        path = self.model.path if is_last else self._best_path(round_)
        _link(path, self.directory / MODEL_FILE)
        model = {"sha256": checkpoint.checksum(path), "bytes": path.stat().st_size}
        self.result = {**result, "model": model, "term": self.store.term}
        text = json.dumps(self.result, indent=1, sort_keys=True)
        checkpoint.write_atomically(self.directory / RESULT_FILE, text.encode())

    def _result(self) -> dict[str, Any]:
        try:
            found = json.loads((self.directory / RESULT_FILE).read_text())
        except (OSError, ValueError):
            return {}
        is_whole = isinstance(found, dict) and (self.directory / MODEL_FILE).is_file()
        return found if is_whole else {}


def _map(path: Path, mode: Any) -> tuple[Layout, Bytes]:
    """A file's layout, and its tensors mapped into memory; raises ValueError."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        layout, _ = parse(file.read(length))
    if not layout.size:
        return layout, np.empty(0, np.uint8)
    return layout, np.memmap(path, np.uint8, mode, offset=LENGTH_BYTES + length)


def _summarize(path: Path) -> tuple[str, int, int]:
    """SHA-256, CRC-32 and size of a file, which is durable when this returns."""
    summary, checksum, size = hashlib.sha256(), 0, 0
    with path.open("rb+") as file:
        while chunk := file.read(CHUNK_BYTES):
            summary.update(chunk)
            checksum = zlib.crc32(chunk, checksum)
            size += len(chunk)
        os.fsync(file.fileno())
    return summary.hexdigest(), checksum, size


def _link(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, at once; a copy where links are not to be had."""
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    try:
        os.link(source, draft)
    except OSError:
        shutil.copyfile(source, draft)
        with draft.open("rb+") as file:
            checkpoint.sync_file(file)
    draft.rename(target)
