"""Image archives, as whoever imports them reads them."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tools.localcluster.containerd import unpacking_folder
from tools.localcluster.oci import (
    IMAGE_NAME,
    Blob,
    archive,
    chain_identifiers,
    single_program_image,
)


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "pause"
    path.write_bytes(b"a program" * 1000)
    return path


def _members(pieces: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(pieces)) as tar:
        found = {}
        for member in tar.getmembers():
            content = tar.extractfile(member)
            found[member.name] = content.read() if content else b""
        return found


def _member(members: dict[str, bytes], digest: str) -> bytes:
    return members[f"blobs/{digest.replace(':', '/')}"]


def _read(members: dict[str, bytes], digest: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(_member(members, digest))
    return document


def test_an_archive_leads_from_the_name_to_the_program(program: Path) -> None:
    members = _members(b"".join(archive("example/pause:1", *single_program_image(program))))
    (entry,) = json.loads(members["index.json"])["manifests"]
    manifest = _read(members, entry["digest"])
    (layer,) = manifest["layers"]
    assert entry["annotations"] == {IMAGE_NAME: "example/pause:1"}
    assert _read(members, manifest["config"]["digest"])["config"]["Entrypoint"] == ["/pause"]
    assert _members(_member(members, layer["digest"]))["pause"] == program.read_bytes()


def test_every_blob_of_an_archive_matches_its_digest(program: Path) -> None:
    members = _members(b"".join(archive("example/pause:1", *single_program_image(program))))
    for name, content in members.items():
        if name.startswith("blobs/sha256/"):
            assert name.rpartition("/")[2] == hashlib.sha256(content).hexdigest()


def test_a_blob_in_a_file_is_written_like_one_in_memory(program: Path) -> None:
    in_memory = Blob.of(program.read_bytes())
    in_file = Blob(in_memory.digest, in_memory.size, program)
    assert b"".join(archive("n", b"{}", [in_file])) == b"".join(archive("n", b"{}", [in_memory]))


def test_a_chain_is_named_as_the_image_specification_says() -> None:
    first, second = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
    joined = hashlib.sha256(f"{first} {second}".encode()).hexdigest()
    assert chain_identifiers([first, second]) == [first, f"sha256:{joined}"]
    assert chain_identifiers([]) == []


@pytest.mark.parametrize(
    ("mounts", "folder"),
    [
        pytest.param(
            [{"Type": "bind", "Source": "/c/snapshots/1/fs", "Options": ["rw", "rbind"]}],
            "/c/snapshots/1/fs",
            id="the lowest layer",
        ),
        pytest.param(
            [
                {
                    "Type": "overlay",
                    "Source": "overlay",
                    "Options": [
                        "index=off",
                        "workdir=/c/snapshots/2/work",
                        "upperdir=/c/snapshots/2/fs",
                        "lowerdir=/c/snapshots/1/fs",
                    ],
                }
            ],
            "/c/snapshots/2/fs",
            id="a layer on others",
        ),
    ],
)
def test_a_snapshot_is_filled_where_its_own_files_lie(
    mounts: list[dict[str, Any]], folder: str
) -> None:
    assert unpacking_folder(mounts) == Path(folder)
