"""Checkpoints and models, streamed to disk and verified; the only writer of the state directory."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from trainyard_trainer.contract.env import MODEL_FILE, RESULT_FILE, STATE_DIR
from trainyard_trainer.membership.messages import ProgressReport
from trainyard_trainer.runtime import checkpoint
from trainyard_trainer.runtime.checkpoint import STATE, CheckpointManifest, CheckpointStore
from trainyard_trainer.transport.connection import HEADER_DIGEST, HEADER_TERM

log = logging.getLogger(__name__)

KINDS: Final = ("checkpoint", "snapshot", "model")
DOCUMENT: Final = "trainyard"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpooledUpload:
    """A received state file, not yet stored under its name."""

    spool: Path
    sha256: str
    size: int


class StateStore:
    """Stores the state files that workers upload, and serves the newest."""

    def __init__(self, store: CheckpointStore, init: str) -> None:
        """`init` is the path of the job's starting model, possibly in the state directory."""
        self.store, self._init = store, init

    def checkpoint_step(self) -> int:
        """The step of the newest valid checkpoint; -1 without one."""
        newest = self.store.newest()
        return -1 if newest is None else newest[1].step

    def result(self) -> dict[str, Any]:
        """The result of a training that was complete in an earlier term; empty without one."""
        try:
            found = json.loads((self.store.directory / RESULT_FILE).read_text())
        except (OSError, ValueError):
            return {}
        is_complete = isinstance(found, dict) and (self.store.directory / MODEL_FILE).is_file()
        return found if is_complete else {}

    async def receive(self, request: web.Request) -> SpooledUpload:
        """Stream an upload into a spool; if invalid, removes it and raises an HTTP error."""
        if request.headers.get(HEADER_TERM) != str(self.store.term):
            raise web.HTTPConflict(text=f"this coordinator has term {self.store.term}")
        spool = self.store.open_spool()
        try:
            summary, size = hashlib.sha256(), 0
            with (spool / STATE).open("wb") as file:
                async for chunk in request.content.iter_chunked(checkpoint.CHUNK_BYTES):
                    summary.update(chunk)
                    size += file.write(chunk)
                checkpoint.sync_file(file)
            if summary.hexdigest() != request.headers.get(HEADER_DIGEST):
                raise web.HTTPBadRequest(text="the upload does not have the announced checksum")
        except BaseException:
            shutil.rmtree(spool, ignore_errors=True)
            raise
        return SpooledUpload(spool=spool, sha256=summary.hexdigest(), size=size)

    def keep_checkpoint(self, upload: SpooledUpload) -> int:
        """Make an upload the newest checkpoint; returns its step."""
        found = checkpoint.document(upload.spool / STATE, DOCUMENT)
        counts = found.get("counts")
        step = counts.get("step") if isinstance(counts, dict) else None
        if not isinstance(step, int):
            raise ValueError("the checkpoint has no counts.step")
        manifest = CheckpointManifest(
            term=self.store.term, step=step, sha256=upload.sha256, size=upload.size
        )
        path = self.store.keep_checkpoint(upload.spool, manifest)
        log.info("checkpoint %s, %d bytes", path.name, upload.size)
        return step

    def keep_model(self, upload: SpooledUpload, *, digests_equal: bool) -> dict[str, object]:
        """Make an upload the final model, and store and return its result."""
        found = checkpoint.document(upload.spool / STATE, DOCUMENT)
        model = {"sha256": upload.sha256, "bytes": upload.size}
        result = {
            **found,
            "model": model,
            "term": self.store.term,
            "digests_equal": digests_equal,
        }
        self.store.check_term()
        (upload.spool / STATE).rename(self.store.directory / MODEL_FILE)
        text = json.dumps(result, indent=1, sort_keys=True)
        checkpoint.write_atomically(self.store.directory / RESULT_FILE, text.encode())
        shutil.rmtree(upload.spool)
        return result

    async def send(self, request: web.Request) -> web.StreamResponse:
        """Stream the newest valid checkpoint, or the starting model for `kind=init`."""
        if request.query.get("kind") == "init":
            path = await asyncio.to_thread(self._find_init)
            return _file(path, await asyncio.to_thread(checkpoint.checksum, path))
        newest = await asyncio.to_thread(self.store.newest)
        if newest is None:
            raise web.HTTPNotFound
        return _file(newest[0], newest[1].sha256)

    def _find_init(self) -> Path:
        # Jobs may share a PersistentVolumeClaim, so that one can start from another's model.
        inside_pod = self.store.directory.is_relative_to(STATE_DIR)
        root = Path(STATE_DIR) if inside_pod else self.store.directory
        path = (root / self._init).resolve()
        if not self._init or not path.is_relative_to(root.resolve()) or not path.is_file():
            raise web.HTTPNotFound
        return path


def final_report(result: dict[str, Any]) -> ProgressReport:
    """The last progress report of a complete training, from its result."""
    return ProgressReport(
        step=int(result.get("steps", 0)),
        samples=int(result.get("samples", 0)),
        epoch=float(result.get("epochs", 0.0)),
        loss=result.get("loss"),
        metrics=dict(result.get("metrics", {})),
        epochs_audited=int(result.get("epochs_audited", 0)),
        samples_wrong=int(result.get("samples_wrong", 0)),
    )


def _file(path: Path, sha256: str) -> web.FileResponse:
    return web.FileResponse(path, headers={HEADER_DIGEST: sha256}, chunk_size=1 << 20)
