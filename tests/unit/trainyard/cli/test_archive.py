"""What a pod exports is unpacked as a whole or not at all, and trusted in nothing."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from trainyard.cli import archive as archive_module
from trainyard.cli.archive import MAX_RESULT_BYTES, FetchError, unpack
from trainyard_trainer.contract.env import MODEL_FILE, RESULT_FILE
from trainyard_trainer.runtime.export import export

MODEL = b"weights" * 1000


def result_of(model: bytes = MODEL) -> bytes:
    return json.dumps({"model": {"sha256": hashlib.sha256(model).hexdigest()}}).encode()


def member(name: str, **fields: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def archive_of(*files: tuple[str, bytes]) -> io.BytesIO:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content in files:
            tar.addfile(member(name, size=len(content)), io.BytesIO(content))
    stream.seek(0)
    return stream


WHOLE = ((MODEL_FILE, MODEL), (RESULT_FILE, result_of()))


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A folder with an earlier model."""
    (tmp_path / MODEL_FILE).write_bytes(b"earlier")
    (tmp_path / RESULT_FILE).write_bytes(b"earlier result")
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_both_files_replace_earlier_ones(output: Path) -> None:
    found = unpack(archive_of(*WHOLE, ("other", b"")), output, 1 << 20)
    assert found == [output / MODEL_FILE, output / RESULT_FILE]
    assert contents(output) == dict(WHOLE)


def test_what_the_trainer_exports_is_unpacked(output: Path, tmp_path_factory: Any) -> None:
    state, stream = tmp_path_factory.mktemp("state"), io.BytesIO()
    for name, content in WHOLE:
        (state / name).write_bytes(content)
    assert export(state, stream) == ""
    stream.seek(0)
    unpack(stream, output, 1 << 20)
    assert contents(output) == dict(WHOLE)


def header_of(size: int) -> io.BytesIO:
    """An archive whose extended header says that it has so many bytes."""
    return io.BytesIO(member("x", size=size, type=tarfile.XHDTYPE).tobuf() + b"\0" * 1024)


BAD: dict[str, tuple[io.BytesIO, str]] = {
    "a damaged model": (archive_of((MODEL_FILE, b"x"), WHOLE[1]), "arrived damaged"),
    "no model": (archive_of(WHOLE[1]), "no final model yet"),
    "no result": (archive_of(WHOLE[0]), "no final model yet"),
    "an empty archive": (archive_of(), "no final model yet"),
    "links": (
        io.BytesIO(
            b"".join(
                member(name, type=tarfile.SYMTYPE, linkname="/etc/passwd").tobuf()
                for name in (MODEL_FILE, RESULT_FILE)
            )
            + b"\0" * 1024
        ),
        "no final model yet",
    ),
    "files above the folder": (
        archive_of(("../" + MODEL_FILE, MODEL), ("../" + RESULT_FILE, result_of())),
        "no final model yet",
    ),
    "a list as the result": (archive_of(WHOLE[0], (RESULT_FILE, b"[]")), "lacks model.sha256"),
    "a result without a model": (archive_of(WHOLE[0], (RESULT_FILE, b"{}")), "lacks model.sha256"),
    "a model that is a list": (
        archive_of(WHOLE[0], (RESULT_FILE, b'{"model": []}')),
        "lacks model.sha256",
    ),
    "a digest that is no text": (
        archive_of(WHOLE[0], (RESULT_FILE, b'{"model": {"sha256": 1}}')),
        "lacks model.sha256",
    ),
    "a result that is no JSON": (
        archive_of(WHOLE[0], (RESULT_FILE, b"\xff{")),
        "lacks model.sha256",
    ),
    "a result that nests without an end": (
        archive_of(WHOLE[0], (RESULT_FILE, b"[" * 200_000)),
        "lacks model.sha256",
    ),
    "a model that is too large": (
        archive_of((MODEL_FILE, b"x" * ((1 << 20) + 1)), WHOLE[1]),
        "more than 1,048,576: raise --max-size",
    ),
    "a result that is too large": (
        archive_of(WHOLE[0], (RESULT_FILE, b" " * (MAX_RESULT_BYTES + 1))),
        "result.json has 16,777,217 bytes",
    ),
    "no archive": (io.BytesIO(b"no such file or directory"), "cannot be read"),
    "half an archive": (io.BytesIO(archive_of(*WHOLE).getvalue()[:2000]), "cannot be read"),
    "a compressed archive": (io.BytesIO(gzip.compress(archive_of(*WHOLE).getvalue())), "cannot be"),
    "a header that fills the memory": (header_of((1 << 33) - 1), "a header of 8,589,934,592 bytes"),
}


@pytest.mark.parametrize(("archive", "message"), BAD.values(), ids=BAD.keys())
def test_an_earlier_model_survives(archive: io.BytesIO, message: str, output: Path) -> None:
    """It did not: it was overwritten by what turned out to be damaged."""
    before = contents(output)
    archive.seek(0)
    with pytest.raises(FetchError, match=message):
        unpack(archive, output, 1 << 20)
    assert contents(output) == before


def test_earlier_files_stay_until_the_new_ones_are_checked(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, bytes]] = []
    verify = archive_module._verify

    def record(folder: Path) -> None:
        seen.append({name: (output / name).read_bytes() for name in (MODEL_FILE, RESULT_FILE)})
        verify(folder)

    monkeypatch.setattr(archive_module, "_verify", record)
    unpack(archive_of(*WHOLE), output, 1 << 20)
    assert seen == [{MODEL_FILE: b"earlier", RESULT_FILE: b"earlier result"}]
