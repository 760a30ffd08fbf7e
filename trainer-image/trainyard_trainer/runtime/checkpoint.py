"""Checkpoints and results on disk: safetensors files with a JSON manifest, written atomically.

It works on bytes alone, because the coordinator keeps them and never imports torch. A checkpoint is
a folder `checkpoints/STEP-TERM` with `state.safetensors` and `manifest.json`; a second one of the
same step and term is called `STEP-TERM.1`. It is written under another name and renamed when all of
it is on disk, so a folder of that name is complete, and its checksum is verified when it is read.
Nothing is ever unpickled.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Final

from trainyard_trainer.runtime.exits import Fenced, StateUnusable

log = logging.getLogger(__name__)

FORMAT: Final = 1
STATE: Final = "state.safetensors"
MANIFEST: Final = "manifest.json"
TERM: Final = "term-"
CHUNK_BYTES: Final = 1 << 20

_FOLDER: Final = re.compile(r"(\d+)-(\d+)(?:\.(\d+))?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointManifest:
    """What a checkpoint holds, as its manifest.json describes it."""

    term: int
    """Of the coordinator that wrote it."""
    step: int
    sha256: str
    """Of the state file."""
    size: int
    """Of the state file in bytes."""
    format: int = FORMAT


class CheckpointStore:
    """A state directory, claimed by a coordinator of one term."""

    def __init__(self, directory: Path, term: int, keep: int = 3) -> None:
        """Claim `directory` for `term`.

        Raises Fenced when a higher term has claimed it, StateUnusable when it cannot be written.
        """
        self.directory, self.term, self.keep = directory, term, keep
        self._damaged: dict[str, str] = {}
        """What is wrong with checkpoints that were found damaged, by name."""
        try:
            (directory / "checkpoints").mkdir(parents=True, exist_ok=True)
            self._claim()
            for leftover in directory.glob("checkpoints/.tmp-*"):
                shutil.rmtree(leftover)
        except OSError as error:
            raise StateUnusable(
                f"the state directory {directory} cannot be used: {error}"
            ) from error

    def _claim(self) -> None:
        """Write a file of this term's own, so that no two writers share one; the highest counts."""
        self.check_term()
        with contextlib.suppress(FileExistsError):
            os.close(os.open(self.directory / f"{TERM}{self.term}", os.O_CREAT | os.O_EXCL))
        _sync(self.directory)
        self.check_term()
        for term in self._terms():
            if term < self.term:
                (self.directory / f"{TERM}{term}").unlink(missing_ok=True)

    def check_term(self) -> None:
        """Raise Fenced when a higher term has claimed the directory since."""
        claimed = max(self._terms(), default=0)
        if claimed > self.term:
            raise Fenced(
                f"term {claimed} has claimed {self.directory}; this coordinator has {self.term}"
            )

    def _terms(self) -> list[int]:
        """The terms that have claimed the directory."""
        found = (path.name.removeprefix(TERM) for path in self.directory.glob(f"{TERM}*"))
        return [int(number) for number in found if number.isdecimal()]

    def check_space(self, needed: int, purpose: str = "") -> None:
        """Raise StateUnusable unless `needed` bytes are free; `purpose` says what for."""
        free = shutil.disk_usage(self.directory).free
        if free < needed:
            raise StateUnusable(
                f"the state directory {self.directory} needs {needed:,} bytes{purpose}, and its "
                f"volume has {free:,} free: make its claim (spec.state.claimName) larger, or "
                "remove what it does not need"
            )

    def check_first(self, size: int) -> None:
        """Raise StateUnusable unless checkpoints of `size` bytes and the final model will fit.

        One more than is kept is on disk while it is written, and none is larger than the first by
        much; the model is smaller.
        """
        count = self.keep + 1
        self.check_space(count * size, f" for {count} checkpoints (checkpoint.keep and one more)")

    def open_spool(self) -> Path:
        """An empty folder to write a state file into."""
        spool = self.directory / "checkpoints" / f".tmp-{os.getpid()}-{os.urandom(4).hex()}"
        spool.mkdir()
        return spool

    def keep_checkpoint(self, spool: Path, manifest: CheckpointManifest) -> Path:
        """Store the spooled state file as a checkpoint, and remove the oldest ones."""
        self.check_term()
        write_atomically(spool / MANIFEST, json.dumps(asdict(manifest), sort_keys=True).encode())
        target = self._free_folder(manifest)
        spool.rename(target)
        _sync(target.parent)
        self._prune(target)
        return target

    def _free_folder(self, manifest: CheckpointManifest) -> Path:
        """A folder's name that is free: the earlier one goes only once the later is stored."""
        first = self.directory / "checkpoints" / f"{manifest.step:012d}-{manifest.term:06d}"
        same = [_order(path)[2] for path in self._folders() if path.stem == first.name]
        return first.with_name(f"{first.name}.{max(same) + 1}") if same else first

    def _prune(self, stored: Path) -> None:
        """Remove checkpoints older than `stored`: damaged ones, and whole ones beyond `keep`.

        Newer ones stay: they are damaged, since training would have gone on from them otherwise,
        and go once training has overtaken them.
        """
        older = [path for path in self._folders() if _order(path) < _order(stored)]
        damaged = [path for path in older if self._is_damaged(path)]
        whole = [path for path in older if path not in damaged]
        for old in [*damaged, *whole[self.keep - 1 :]]:
            try:
                shutil.rmtree(old)
            except OSError as error:  # The new checkpoint is safe all the same.
                log.warning("checkpoint %s cannot be removed: %s", old.name, error)

    def _is_damaged(self, folder: Path) -> bool:
        """Whether a checkpoint is known to be damaged, as far as that is quick to find out."""
        try:
            is_torn = (folder / STATE).stat().st_size != _read_manifest(folder).size
        except (OSError, ValueError):
            return True
        return is_torn or folder.name in self._damaged

    def newest(
        self, check: Callable[[Path], object] = Path
    ) -> tuple[Path, CheckpointManifest] | None:
        """The newest whole checkpoint's state file; the log names damaged ones, which are skipped.

        `check` takes a checkpoint's folder and raises ValueError or OSError for a damaged one.
        """
        for folder in self._folders():
            try:
                manifest = verify(folder)
                check(folder)
                return folder / STATE, manifest
            except (OSError, ValueError) as error:
                self._damaged[folder.name] = str(error)
                log.warning("checkpoint %s is damaged and skipped: %s", folder.name, error)
        return None

    def resume(
        self, check: Callable[[Path], object] = Path
    ) -> tuple[Path, CheckpointManifest] | None:
        """As `newest`, but None only if nothing was ever stored.

        Raises StateUnusable when all checkpoints are damaged: to begin anew is for a person to
        decide.
        """
        newest = self.newest(check)
        if newest is None and (folders := self._folders()):
            latest = folders[0]
            raise StateUnusable(
                f"none of the {len(folders)} checkpoints in {latest.parent} can be read; the "
                f"newest, {latest.name}: {self._damaged.get(latest.name, 'is new')}. Restore one "
                "of them from a backup, or delete them all to begin anew"
            )
        return newest

    def _folders(self) -> list[Path]:
        """All checkpoints, the newest first."""
        found = (self.directory / "checkpoints").iterdir()
        return sorted((p for p in found if _FOLDER.fullmatch(p.name)), key=_order, reverse=True)


def _order(folder: Path) -> tuple[int, int, int]:
    """Step, term, and the number among checkpoints of equal step and term."""
    found = _FOLDER.fullmatch(folder.name)
    assert found is not None  # noqa: S101 -- it is a checkpoint's
    step, term, number = found.groups(default="0")
    return int(step), int(term), int(number)


def verify(folder: Path) -> CheckpointManifest:
    """The manifest of a checkpoint whose state file fits it; raises ValueError or OSError."""
    manifest = _read_manifest(folder)
    if checksum(folder / STATE) != manifest.sha256:
        raise ValueError("its state file does not have the manifest's checksum")
    return manifest


def _read_manifest(folder: Path) -> CheckpointManifest:
    values = json.loads((folder / MANIFEST).read_bytes())
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise ValueError(f"its format is not {FORMAT}")
    try:
        return CheckpointManifest(**values)
    except TypeError as error:
        raise ValueError(f"its manifest is invalid: {error}") from None


def checksum(path: Path) -> str:
    """SHA-256 of a file, read in chunks."""
    summary = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            summary.update(chunk)
    return summary.hexdigest()


def chunks(path: Path) -> Iterator[bytes]:
    """A file in pieces of `CHUNK_BYTES`."""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file by another that is wholly on disk before it takes the name."""
    # In each pod the process has the same id, and two terms may write to one directory.
    draft = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    with draft.open("wb") as file:
        file.write(data)
        sync_file(file)
    draft.rename(path)
    _sync(path.parent)


def sync_file(file: BinaryIO) -> None:
    """Make what was written to `file` durable."""
    file.flush()
    os.fsync(file.fileno())


def _sync(directory: Path) -> None:
    """Make renames in `directory` durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def document(path: Path, key: str) -> dict[str, object]:
    """The JSON document in a safetensors file's metadata; raises ValueError when it has none."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(100 << 20, path.stat().st_size):
            raise ValueError("not a safetensors file")
        header = json.loads(file.read(length))
    text = header.get("__metadata__", {}).get(key) if isinstance(header, dict) else None
    if text is None:
        raise ValueError(f"the file's metadata has no {key!r}")
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError(f"the file's {key!r} is not a JSON object")
    return found
