"""The final model and its result as one tar stream, for `trainyard fetch`.

It runs in whatever pod has the state directory before it, so it needs the standard library alone.
"""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import BinaryIO

from trainyard_trainer.contract.env import MODEL_FILE, RESULT_FILE

FILES = (RESULT_FILE, MODEL_FILE)


def export(directory: Path, stream: BinaryIO) -> str:
    """Write both files to `stream`; returns an error if there is no final model, else ""."""
    missing = [name for name in FILES if not (directory / name).is_file()]
    if missing:
        return f"{directory} has no {' and no '.join(missing)}: training has not ended yet"
    with tarfile.open(fileobj=stream, mode="w|") as archive:
        for name in FILES:
            archive.add(directory / name, arcname=name)
    return ""
