"""Updates in transit: verified while they stream in, kept until their round closes.

The spool bounds the memory that parties can make the aggregator use: small updates stay in memory
within a common budget, larger ones go to disk, and a partial update leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from trainyard_trainer.contract.federated import RefusalReason
from trainyard_trainer.federated.aggregation.validation import BLOCK_BYTES, UpdateValidator
from trainyard_trainer.federated.protocol.layout import MAX_HEADER_BYTES, Bytes, Layout
from trainyard_trainer.federated.protocol.messages import UpdateMetadata, parse_metadata
from trainyard_trainer.federated.protocol.wire import TransferParser, UpdateRefused
from trainyard_trainer.federated.server.initial import InitialCheck, InitialRules
from trainyard_trainer.runtime.exits import StateUnusable

MEMORY_BYTES: Final = 64 << 20
"""Budget of all updates in memory; a round of 16 small models fits, a large model goes to disk."""


def spooled_bytes(size: int) -> int:
    """How much of the disk updates of `size` bytes together need."""
    return max(0, size - MEMORY_BYTES)


class SpooledTensors:
    """The tensors of one update, in memory or on disk."""

    def __init__(self, spool: Spool, size: int) -> None:
        """Reserve `size` bytes; memory is allocated as they arrive."""
        self._spool, self.size = spool, size
        self._filled = 0
        self._path: Path | None = None
        if spool.reserve(size):
            # A private mapping: pages are allocated as they are written and returned as a whole. A
            # growing array would be copied, and fragment the heap.
            private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
            self._memory = mmap.mmap(-1, max(size, 1), flags=private)
            return
        self._path = spool.directory / f"update-{os.urandom(8).hex()}"
        with _state_errors():
            self._file = self._path.open("wb")

    def write(self, block: bytes) -> None:
        """Append a block."""
        if self._path is None:
            self._memory[self._filled : self._filled + len(block)] = block
            self._filled += len(block)
        else:
            with _state_errors():
                self._file.write(block)

    def read(self) -> Bytes:
        """All bytes, once all of them are written."""
        if self._path is None:
            return np.frombuffer(self._memory, np.uint8, self.size)
        with _state_errors():
            self._file.close()
        if not self.size:
            return np.empty(0, np.uint8)
        return np.memmap(self._path, np.uint8, "r")

    def discard(self) -> None:
        """Free the memory or the disk space."""
        if self._path is None:
            self._spool.release(self.size)
        else:
            with contextlib.suppress(OSError):  # Unwritten data is not needed any more.
                self._file.close()
            self._path.unlink(missing_ok=True)


@contextlib.contextmanager
def _state_errors() -> Iterator[None]:
    """Raise StateUnusable for a full or lost disk: sending again would not help."""
    try:
        yield
    except OSError as error:
        raise StateUnusable(f"an update cannot be kept in the state directory: {error}") from error


class Spool:
    """The directory and the memory budget of spooled updates."""

    def __init__(self, directory: Path, memory_bytes: int = MEMORY_BYTES) -> None:
        """The caller empties `directory`."""
        self.directory = directory
        self._free = memory_bytes
        self._lock = threading.Lock()
        """Uploads are fed in threads."""

    def reserve(self, size: int) -> bool:
        """Take `size` bytes of the memory budget, if it has them; whether it has."""
        with self._lock:
            fits = size <= self._free
            self._free -= size if fits else 0
            return fits

    def free_bytes(self) -> int:
        """The free space of the directory's volume; raises StateUnusable for a lost one."""
        with _state_errors():
            return shutil.disk_usage(self.directory).free

    def release(self, size: int) -> None:
        """Return `size` bytes to the memory budget."""
        with self._lock:
            self._free += size


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedUpdate:
    """A complete, verified update."""

    metadata: UpdateMetadata
    layout: Layout
    tensors: SpooledTensors
    norm: float
    """The distance from the model that it was trained from."""
    digest: str = ""
    """Of an initial model that another party has to confirm."""


class UpdateUpload:
    """The upload of one update, from its first byte to its verification."""

    def __init__(
        self,
        spool: Spool,
        expected: Layout | None,
        base: Bytes | None,
        initial: InitialRules | None = None,
    ) -> None:
        """`expected` is the model's layout and `base` the model; None for the initial model."""
        self._rules = initial
        self._initial: InitialCheck | None = None
        self._spool, self._expected, self._base = spool, expected, base
        self._parser = TransferParser(
            expected.max_header_bytes if expected is not None else MAX_HEADER_BYTES
        )
        self._block = bytearray()
        self._validator: UpdateValidator | None = None
        self._tensors: SpooledTensors | None = None
        self._lock = threading.Lock()
        """Held while bytes are taken: an upload may be discarded while a thread feeds it."""
        self._is_discarded = False
        self.metadata: UpdateMetadata | None = None
        """None until the header is complete."""

    @property
    def norm(self) -> float:
        """The distance from the base, over the bytes so far."""
        return self._validator.norm if self._validator is not None else 0.0

    def feed(self, data: bytes) -> None:
        """Take the next bytes; raises UpdateRefused or StateUnusable."""
        with self._lock:
            if not self._is_discarded:
                self._feed(data)

    def _feed(self, data: bytes) -> None:
        for piece in self._parser.feed(memoryview(data)):
            self._start()
            self._block += piece
            while len(self._block) >= BLOCK_BYTES:
                self._flush(BLOCK_BYTES)

    def close(self) -> ReceivedUpdate:
        """The update, at the end of the upload; raises UpdateRefused."""
        self._parser.close()
        layout = self._start()
        self._flush(len(self._block))
        assert self.metadata is not None  # noqa: S101 -- set by `_start`
        assert self._tensors is not None  # noqa: S101 -- set by `_start`
        return ReceivedUpdate(
            metadata=self.metadata,
            layout=layout,
            tensors=self._tensors,
            norm=self.norm,
            digest=self._initial.digest if self._initial is not None else "",
        )

    def discard(self) -> None:
        """Delete what was received; bytes that still arrive are dropped."""
        with self._lock:
            self._is_discarded = True
            if self._tensors is not None:
                self._tensors.discard()
                self._tensors = None

    def _start(self) -> Layout:
        """Check the complete header, once; the layout that it describes."""
        layout = self._parser.layout
        assert layout is not None  # noqa: S101 -- the parser has passed the header
        if self._tensors is not None:
            return layout
        self.metadata = parse_metadata(self._parser.document)
        if self._expected is not None and (difference := self._expected.difference(layout)):
            raise UpdateRefused(RefusalReason.SHAPE, f"it {difference}")
        if self._rules is not None:
            self._initial = InitialCheck(layout, self._rules)
        self._validator = UpdateValidator(layout, self._base)
        self._tensors = SpooledTensors(self._spool, layout.size)
        return layout

    def _flush(self, size: int) -> None:
        block = bytes(self._block[:size])
        del self._block[:size]
        assert self._validator is not None  # noqa: S101 -- set by `_start`
        assert self._tensors is not None  # noqa: S101 -- set by `_start`
        numbers = np.frombuffer(block, np.uint8)
        self._validator.feed(numbers)
        if self._initial is not None:
            self._initial.feed(numbers)
        self._tensors.write(block)
