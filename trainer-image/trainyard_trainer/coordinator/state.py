"""The state directory of a DistributedJob: verified uploads of its workers, and downloads.

Only this module writes there.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

from aiohttp import web

from trainyard_trainer.contract.encoding import finite
from trainyard_trainer.contract.env import MODEL_FILE, RESULT_FILE, STATE_DIR
from trainyard_trainer.membership.messages import ProgressReport
from trainyard_trainer.runtime import checkpoint
from trainyard_trainer.runtime.checkpoint import STATE, CheckpointManifest, CheckpointStore
from trainyard_trainer.runtime.exits import StateUnusable
from trainyard_trainer.transport.connection import (
    HEADER_DIGEST,
    HEADER_SIZE,
    HEADER_TERM,
    TRANSFER_IDLE_SECONDS,
)

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

KINDS: Final = ("checkpoint", "snapshot", "model")
DOCUMENT: Final = "trainyard"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpooledUpload:
    """A state file as it arrived, and its spool directory."""

    spool: Path
    sha256: str
    size: int


class StateStore:
    """Stores the workers' checkpoints and final model, and serves them."""

    def __init__(self, store: CheckpointStore, init: str) -> None:
        """`init` is the path of the job's starting model, possibly in the state directory."""
        self.store, self._init = store, init

    def checkpoint_step(self) -> int:
        """The step of the newest whole checkpoint; -1 before the first.

        Raises StateUnusable when all are damaged.
        """
        newest = self.store.resume()
        return -1 if newest is None else newest[1].step

    def result(self) -> dict[str, Any]:
        """The result of a training that an earlier term completed; empty without one."""
        return read_result(self.store.directory)

    async def check_first(self, request: web.Request) -> None:
        """Raise StateUnusable if checkpoints as large as this upload would not fit."""
        size = request.headers.get(HEADER_SIZE, "")
        if size.isdecimal():
            await self.on_disk(self.store.check_first, int(size))

    async def receive(self, request: web.Request) -> SpooledUpload:
        """Stream an upload into a spool; for a bad one raises an HTTP error and leaves nothing.

        Raises OSError when the connection breaks or stands still.
        """
        if request.headers.get(HEADER_TERM) != str(self.store.term):
            raise web.HTTPConflict(text=f"this coordinator has term {self.store.term}")
        spool = await self.on_disk(self.store.open_spool)
        try:
            sha256, size = hashlib.sha256(), 0
            file = await self.on_disk((spool / STATE).open, "wb")
            try:
                # Each chunk is on its way to the disk before the next is read: memory is bounded.
                async for chunk in _chunks(request):
                    await asyncio.to_thread(sha256.update, chunk)
                    size += await self.on_disk(file.write, chunk)
                await self.on_disk(checkpoint.sync_file, file)
            finally:
                with contextlib.suppress(OSError):  # What was not written has raised before.
                    await asyncio.to_thread(file.close)
            if sha256.hexdigest() != request.headers.get(HEADER_DIGEST):
                raise web.HTTPBadRequest(text="the upload does not match its announced checksum")
        except BaseException:
            await asyncio.to_thread(shutil.rmtree, spool, ignore_errors=True)
            raise
        return SpooledUpload(spool=spool, sha256=sha256.hexdigest(), size=size)

    async def on_disk(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do `work` on a thread, because a disk may be slow; raises StateUnusable if it fails."""
        try:
            return await asyncio.to_thread(work, *args, **kwargs)
        except OSError as error:
            raise StateUnusable(
                f"the state directory {self.store.directory} cannot be written: {error}. Make its "
                "claim (spec.state.claimName) larger, or remove what it does not need"
            ) from error

    def keep_checkpoint(self, upload: SpooledUpload) -> int:
        """Make an upload the newest checkpoint; returns its step."""
        document = checkpoint.document(upload.spool / STATE, DOCUMENT)
        counts = document.get("counts")
        step = counts.get("step") if isinstance(counts, dict) else None
        if not isinstance(step, int):
            raise ValueError("the checkpoint's document has no step")
        manifest = CheckpointManifest(
            term=self.store.term, step=step, sha256=upload.sha256, size=upload.size
        )
        newest = None if document.get("finite", True) else self.store.newest()
        if newest is not None:
            log.warning("the state of step %d is not finite: step %d is kept", step, newest[1].step)
            shutil.rmtree(upload.spool)
            return newest[1].step
        path = self.store.keep_checkpoint(upload.spool, manifest)
        log.info("checkpoint %s, %d bytes", path.name, upload.size)
        return step

    def keep_model(self, upload: SpooledUpload, *, digests_equal: bool) -> dict[str, object]:
        """Make an upload the final model; returns the content of result.json."""
        document = checkpoint.document(upload.spool / STATE, DOCUMENT)
        model = {"sha256": upload.sha256, "bytes": upload.size}
        result: dict[str, object] = {
            **document,
            "model": model,
            "term": self.store.term,
            "digests_equal": digests_equal,
        }
        self.store.check_term()
        (upload.spool / STATE).rename(self.store.directory / MODEL_FILE)
        result = finite(result)
        text = json.dumps(result, indent=1, sort_keys=True, allow_nan=False)
        checkpoint.write_atomically(self.store.directory / RESULT_FILE, text.encode())
        shutil.rmtree(upload.spool)
        return result

    async def send(self, request: web.Request) -> web.StreamResponse:
        """Stream the newest complete checkpoint, or the starting model (`?kind=init`).

        Raises StateUnusable when all checkpoints are damaged.
        """
        if request.query.get("kind") == "init":
            path = await asyncio.to_thread(self._find_init)
            return _file(path, await asyncio.to_thread(checkpoint.checksum, path))
        newest = await asyncio.to_thread(self.store.resume)
        if newest is None:
            raise web.HTTPNotFound
        return _file(newest[0], newest[1].sha256)

    def _find_init(self) -> Path:
        root = init_root(self.store.directory)
        path = (root / self._init).resolve()
        if not self._init or not path.is_relative_to(root.resolve()) or not path.is_file():
            raise web.HTTPNotFound
        return path


async def _chunks(request: web.Request) -> AsyncIterator[bytes]:
    """A request's body; raises TimeoutError when it stands still."""
    while True:
        async with asyncio.timeout(TRANSFER_IDLE_SECONDS):
            chunk = await request.content.read(checkpoint.CHUNK_BYTES)
        if not chunk:
            return
        yield chunk


def read_result(directory: Path) -> dict[str, Any]:
    """The content of result.json in a state directory; empty unless its model is there as well."""
    try:
        result = json.loads((directory / RESULT_FILE).read_text())
    except (OSError, ValueError):
        return {}
    is_complete = isinstance(result, dict) and (directory / MODEL_FILE).is_file()
    return result if is_complete else {}


def init_root(directory: Path) -> Path:
    """The directory that `training.init` is relative to.

    Jobs may share a volume, so that one can start from another's model.
    """
    return Path(STATE_DIR) if directory.is_relative_to(STATE_DIR) else directory


def final_report(result: dict[str, Any]) -> ProgressReport:
    """The final progress of a completed training, from its result."""
    return ProgressReport(
        step=int(result.get("steps", 0)),
        samples=int(result.get("samples", 0)),
        epoch=float(result.get("epochs", 0.0)),
        loss=result.get("loss"),
        non_finite_steps=int(result.get("non_finite_steps", 0)),
        metrics=dict(result.get("metrics", {})),
        epochs_audited=int(result.get("epochs_audited", 0)),
        samples_wrong=int(result.get("samples_wrong", 0)),
    )


def _file(path: Path, sha256: str) -> web.FileResponse:
    return web.FileResponse(path, headers={HEADER_DIGEST: sha256}, chunk_size=1 << 20)
