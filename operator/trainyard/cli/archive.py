"""What a pod exports: two files in a tar archive, which is trusted in nothing."""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import IO, Any, Final

from trainyard_trainer.contract.env import MODEL_FILE, RESULT_FILE

MAX_RESULT_BYTES: Final = 16 << 20
MAX_MODEL_BYTES: Final = 100 << 30
"""By default; `trainyard fetch --max-size` sets it."""
MAX_READ_BYTES: Final = 1 << 20
"""At once; a longer header is no header of ours, and would be read into memory whole."""


class FetchError(Exception):
    """Why the model could not be fetched, in one sentence for the user."""


def unpack(archive: IO[bytes], output: Path, max_bytes: int) -> list[Path]:
    """Put both files into `output`, replacing earlier ones, or none of them.

    They are unpacked beside these and checked first. Raises FetchError.
    """
    with tempfile.TemporaryDirectory(dir=output, prefix=".trainyard-fetch-") as folder:
        beside = Path(folder)
        try:
            _extract(archive, beside, {MODEL_FILE: max_bytes, RESULT_FILE: MAX_RESULT_BYTES})
        except (tarfile.TarError, EOFError, ValueError) as error:
            raise FetchError(f"the archive cannot be read: {error}") from error
        _verify(beside)
        return [(beside / name).replace(output / name) for name in (MODEL_FILE, RESULT_FILE)]


class _Bounded:
    """A file whose `read` refuses to fill the memory."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_READ_BYTES:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self._file.read(size)


def _extract(archive: IO[bytes], folder: Path, limits: dict[str, int]) -> None:
    """Extract the files of these names; raises FetchError if one is too large."""
    # "r:" rather than "r", which would unpack compressed archives too.
    with tarfile.open(fileobj=_Bounded(archive), mode="r:") as tar:  # type: ignore[call-overload]
        for member in tar:
            if member.name not in limits or not member.isfile() or member.issparse():
                continue
            if member.size > (limit := limits[member.name]):
                hint = ": raise --max-size" if member.name == MODEL_FILE else ""
                raise FetchError(
                    f"{member.name} has {member.size:,} bytes, more than {limit:,}{hint}"
                )
            if (source := tar.extractfile(member)) is not None:
                with (folder / member.name).open("wb") as file:
                    shutil.copyfileobj(source, file, MAX_READ_BYTES)


def _verify(folder: Path) -> None:
    """Check that the model is the one that the result describes; raises FetchError."""
    model, result = folder / MODEL_FILE, folder / RESULT_FILE
    if not (model.is_file() and result.is_file()):
        raise FetchError("the job has no final model yet; see its status.phase")
    expected = _recorded(result.read_bytes())
    with model.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if expected != actual:
        raise FetchError(f"{MODEL_FILE} arrived damaged: sha256 {actual}, expected {expected}")


def _recorded(result: bytes) -> str:
    """The model's digest that the result records; raises FetchError."""
    try:
        content: Any = json.loads(result)
        digest = content["model"]["sha256"]
    except (ValueError, KeyError, TypeError, RecursionError):
        digest = None
    if not isinstance(digest, str):
        raise FetchError(
            f"{RESULT_FILE} is not a result of Trainyard's: it lacks model.sha256, by which the "
            "model is checked"
        )
    return digest
