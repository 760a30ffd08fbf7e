"""Image archives by the OCI layout, written piece by piece: containerd imports them from a pipe."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

IMAGE_NAME = "io.containerd.image.name"
"""The annotation by which containerd names an image that it imports."""

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Blob:
    """Some content of an image: what it hashes to, and the content or the file that holds it."""

    digest: str
    size: int
    content: bytes | Path

    @classmethod
    def of(cls, content: bytes) -> Blob:
        """A blob of content in memory."""
        return cls(f"sha256:{hashlib.sha256(content).hexdigest()}", len(content), content)

    def pieces(self) -> Iterator[bytes]:
        """The content, no more than a piece of it in memory."""
        if isinstance(self.content, bytes):
            yield self.content
            return
        with self.content.open("rb") as file:
            while piece := file.read(_PIECE_BYTES):
                yield piece


def archive(name: str, manifest: bytes, blobs: Iterable[Blob]) -> Iterator[bytes]:
    """The archive of one image; blobs that the importer has already may be left out."""
    of_manifest = Blob.of(manifest)
    descriptor = _descriptor(of_manifest, _MANIFEST) | {"annotations": {IMAGE_NAME: name}}
    yield from _member("oci-layout", Blob.of(b'{"imageLayoutVersion": "1.0.0"}'))
    yield from _member(
        "index.json", Blob.of(_json({"schemaVersion": 2, "manifests": [descriptor]}))
    )
    for blob in (of_manifest, *blobs):
        yield from _member(f"blobs/{blob.digest.replace(':', '/')}", blob)
    yield bytes(2 * tarfile.BLOCKSIZE)


def single_program_image(program: Path) -> tuple[bytes, list[Blob]]:
    """The manifest and blobs of an image that holds one statically linked program."""
    layer = Blob.of(_layer(program))
    entry = {"Entrypoint": [f"/{program.name}"], "User": "65535:65535"}
    rootfs = {"type": "layers", "diff_ids": [layer.digest]}
    platform = {"os": "linux", "architecture": "amd64"}
    config = Blob.of(_json({**platform, "config": entry, "rootfs": rootfs}))
    return _manifest(config, [layer]), [config, layer]


def chain_identifiers(diff_ids: Sequence[str]) -> list[str]:
    """How containerd names the snapshot of each layer on top of those below it (OCI image spec)."""
    chain: list[str] = []
    for diff_id in diff_ids:
        text = f"{chain[-1]} {diff_id}" if chain else diff_id
        chain.append(Blob.of(text.encode()).digest if chain else diff_id)
    return chain


def _manifest(config: Blob, layers: Sequence[Blob]) -> bytes:
    return _json(
        {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": _descriptor(config, _CONFIG),
            "layers": [_descriptor(layer, _LAYER) for layer in layers],
        }
    )


def _layer(program: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo(program.name)
        entry.size, entry.mode = program.stat().st_size, 0o755
        with program.open("rb") as file:
            tar.addfile(entry, file)
    return buffer.getvalue()


def _member(name: str, blob: Blob) -> Iterator[bytes]:
    """One file of a tar archive: header, content, and zeros up to a full block."""
    entry = tarfile.TarInfo(name)
    entry.size = blob.size
    yield entry.tobuf(tarfile.GNU_FORMAT)
    yield from blob.pieces()
    yield bytes(-blob.size % tarfile.BLOCKSIZE)


def _descriptor(blob: Blob, kind: str) -> dict[str, Any]:
    return {"mediaType": kind, "digest": blob.digest, "size": blob.size}


def _json(document: object) -> bytes:
    return json.dumps(document, sort_keys=True).encode()
