"""Updates on their way in: verified while they stream, kept until the round closes.

It stands apart because it bounds what parties can make the aggregator hold: small updates lie in
memory up to a common budget, larger ones on disk, and half an update leaves nothing.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from trainyard_trainer.contract.federated import RefusalReason
from trainyard_trainer.federated.aggregation.validation import BLOCK_BYTES, UpdateValidator
from trainyard_trainer.federated.protocol.layout import Bytes, Layout
from trainyard_trainer.federated.protocol.messages import UpdateMetadata, read_metadata
from trainyard_trainer.federated.protocol.wire import TransferParser, UpdateRefused
from trainyard_trainer.runtime.exits import StateUnusable

MEMORY_BYTES: Final = 64 << 20
"""For all updates together; a round of 16 small models fits, a large model goes to disk."""


class SpooledUpdate:
    """The tensors of one update."""

    def __init__(self, spool: Spool, size: int) -> None:
        """`size` bytes will come; memory is taken as they do, not before."""
        self._spool, self.size = spool, size
        self._filled = 0
        self._path: Path | None = None
        if spool.reserve(size):
            # Pages of its own: taken as they are written, and given back whole. An array that
            # grows would be copied, and leave the heap in pieces.
            private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
            self._memory = mmap.mmap(-1, max(size, 1), flags=private)
            return
        self._path = spool.directory / f"update-{os.urandom(8).hex()}"
        with _storing():
            self._file = self._path.open("wb")

    def write(self, block: bytes) -> None:
        """Add the next bytes."""
        if self._path is None:
            self._memory[self._filled : self._filled + len(block)] = block
            self._filled += len(block)
        else:
            with _storing():
                self._file.write(block)

    def read(self) -> Bytes:
        """All of it, once it has all come."""
        if self._path is None:
            return np.frombuffer(self._memory, np.uint8, self.size)
        with _storing():
            self._file.close()
        if not self.size:
            return np.empty(0, np.uint8)
        return np.memmap(self._path, np.uint8, "r")

    def discard(self) -> None:
        """Give back what it takes."""
        if self._path is None:
            self._spool.release(self.size)
        else:
            with contextlib.suppress(OSError):  # what is still to be written is not wanted
                self._file.close()
            self._path.unlink(missing_ok=True)


@contextlib.contextmanager
def _storing() -> Iterator[None]:
    """A disk that is full or gone is nothing that a party could mend by sending again."""
    try:
        yield
    except OSError as error:
        raise StateUnusable(f"an update cannot be kept in the state directory: {error}") from error


class Spool:
    """Where drafts lie."""

    def __init__(self, directory: Path, memory_bytes: int = MEMORY_BYTES) -> None:
        """`directory` is emptied by whoever made it."""
        self.directory = directory
        self._free = memory_bytes

    def reserve(self, size: int) -> bool:
        """Take `size` bytes of the budget; whether there are so many."""
        fits = size <= self._free
        self._free -= size if fits else 0
        return fits

    def release(self, size: int) -> None:
        """Give `size` bytes back to the budget."""
        self._free += size


class UpdateUpload:
    """One update, from its first byte to a verified draft."""

    def __init__(self, spool: Spool, expected: Layout | None, base: Bytes | None) -> None:
        """`expected` is the model's layout and `base` the model; None for the initial model."""
        self._spool, self._expected, self._base = spool, expected, base
        self._body = TransferParser()
        self._block = bytearray()
        self._inspector: UpdateValidator | None = None
        self._draft: SpooledUpdate | None = None
        self.note: UpdateMetadata | None = None

    @property
    def layout(self) -> Layout:
        """Of the update."""
        assert self._body.layout is not None  # noqa: S101 -- asked for after the header
        return self._body.layout

    @property
    def norm(self) -> float:
        """How far it has moved from the base."""
        return self._inspector.norm if self._inspector is not None else 0.0

    def feed(self, data: bytes) -> None:
        """Take the next bytes; raises Refused or StateUnusable."""
        for piece in self._body.feed(memoryview(data)):
            self._begin()
            self._block += piece
            while len(self._block) >= BLOCK_BYTES:
                self._flush(BLOCK_BYTES)

    def close(self) -> tuple[UpdateMetadata, SpooledUpdate]:
        """All bytes have come: the update; raises Refused."""
        self._body.close()
        self._begin()
        self._flush(len(self._block))
        assert self.note is not None  # noqa: S101 -- set by `_begin`
        assert self._draft is not None  # noqa: S101 -- set by `_begin`
        return self.note, self._draft

    def discard(self) -> None:
        """Leave nothing."""
        if self._draft is not None:
            self._draft.discard()
            self._draft = None

    def _begin(self) -> None:
        """Judge the header, once."""
        if self._draft is not None:
            return
        self.note = read_metadata(self._body.document)
        if self._expected is not None and (found := self._expected.difference(self.layout)):
            raise UpdateRefused(RefusalReason.SHAPE, f"it {found}")
        self._inspector = UpdateValidator(self.layout, self._base)
        self._draft = SpooledUpdate(self._spool, self.layout.size)

    def _flush(self, size: int) -> None:
        block = bytes(self._block[:size])
        del self._block[:size]
        assert self._inspector is not None  # noqa: S101 -- set by `_begin`
        assert self._draft is not None  # noqa: S101 -- set by `_begin`
        self._inspector.feed(np.frombuffer(block, np.uint8))
        self._draft.write(block)
