"""Checks an initial model, which one party sends for all, while it streams in.

No party alone chooses the model that a federation starts from: it is compared with the job's
starting model, or its digest with another party's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainyard_trainer.contract.federated import RefusalReason
from trainyard_trainer.federated.protocol.layout import LENGTH_BYTES, Bytes, Entry, Layout
from trainyard_trainer.federated.protocol.wire import UpdateRefused
from trainyard_trainer.runtime import modelfile


class StartingModel:
    """A safetensors file of any order of tensors, mapped into memory."""

    def __init__(self, path: Path) -> None:
        """Raises OSError or ValueError for a file that is none."""
        with path.open("rb") as file:
            length = int.from_bytes(file.read(LENGTH_BYTES), "little")
            self._fields: dict[str, Any] = json.loads(file.read(length))
        start = LENGTH_BYTES + length
        is_empty = path.stat().st_size == start
        self._data = np.empty(0, np.uint8) if is_empty else np.memmap(path, np.uint8, "r", start)

    def tensors(self, layout: Layout) -> dict[str, Bytes]:
        """The bytes of those of `layout`'s tensors that the file has in their dtype and shape."""
        first = {name: entry.name for entry in layout.entries for name in entry.file_names or ()}
        first |= {entry.name: entry.name for entry in layout.entries}
        own = modelfile.own_names(self._fields, first)
        fields = {first[name]: self._fields[given] for given, name in own.items() if name in first}
        found = (
            (entry.name, self._find(entry, fields.get(entry.name))) for entry in layout.entries
        )
        return {name: data for name, data in found if data is not None}

    def _find(self, entry: Entry, description: Any) -> Bytes | None:
        match description:
            case {"dtype": entry.dtype, "shape": list(shape), "data_offsets": [start, stop]}:
                if tuple(shape) == entry.shape and stop - start == entry.size:
                    return self._data[start:stop]
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class InitialRules:
    """What an initial model has to meet."""

    start: StartingModel | None
    """The job's starting model, if it has one."""
    required_bytes: Callable[[Layout], int]
    """What the rounds of a model need in the state directory."""
    free_bytes: Callable[[], int]
    """What is free there."""


class InitialCheck:
    """Checks one initial model, block by block."""

    def __init__(self, layout: Layout, rules: InitialRules) -> None:
        """Raises UpdateRefused if the state directory is too small for such a model."""
        required, free = rules.required_bytes(layout), rules.free_bytes()
        if required > free:
            text = f"rounds of a model of {layout.size} bytes need {required} bytes in the state"
            text = f"{text} directory, where {free} are free: use a larger volume"
            raise UpdateRefused(RefusalReason.VOLUME, text)
        given = rules.start.tensors(layout) if rules.start is not None else {}
        self._tensors = [(entry, at, given.get(entry.name)) for entry, at in layout.offsets()]
        # What the model's file is to hold is nothing for one party to decide, either.
        self._is_plain = layout.published == layout
        self._offset = 0
        self._digest = hashlib.sha256(layout.header({}))

    @property
    def digest(self) -> str:
        """SHA-256 of layout and tensors; empty if all of them are those of the starting model."""
        is_given = all(given is not None for _, _, given in self._tensors)
        return "" if is_given and self._is_plain else self._digest.hexdigest()

    def feed(self, block: Bytes) -> None:
        """Take the next bytes; raises UpdateRefused if they are not the starting model's."""
        self._digest.update(block.data)
        start, stop = self._offset, self._offset + len(block)
        for entry, at, given in self._tensors:
            first, last = max(start, at), min(stop, at + entry.size)
            if given is None or first >= last:
                continue
            if not np.array_equal(
                given[first - at : last - at], block[first - start : last - start]
            ):
                text = f"its {entry.name[:100]} is not that of training.init"
                raise UpdateRefused(RefusalReason.INITIAL, text)
        self._offset = stop
