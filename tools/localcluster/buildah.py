"""buildah as the builder of images, for machines without a container engine.

Such a machine often has no registry to pull from either, so the base image is a stand-in that is
made from packages. The store lies in our cache, on one disk with the clusters: their containerd
shares the files of unpacked layers with it, which saves minutes and gigabytes per cluster.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from tools.localcluster.cache import cache_root, content_key, scratch
from tools.localcluster.commands import run, run_logged, succeeds
from tools.localcluster.engines import Build
from tools.localcluster.oci import Blob, archive, chain_identifiers
from tools.localcluster.progress import say

_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
_UV_CACHE = "/var/cache/uv"
_BASE_PACKAGES = "python3,python3-venv,ca-certificates"
_DEBIAN = "bookworm"


class Buildah:
    """The store of images in our cache."""

    def base(self) -> str:
        """A Debian with Python, made by mmdebstrap once."""
        tag = f"trainyard-base:{content_key([_DEBIAN, _BASE_PACKAGES])}"
        if not self.has(tag):
            say("Making a base image from packages of Debian: half a minute, once per machine.")
            self._make_base(tag)
        return tag

    def has(self, tag: str) -> bool:
        """Whether the store keeps an image of this name."""
        return succeeds(self._command("inspect", "--type", "image", tag))

    def build(self, build: Build, log: Path) -> None:
        """Build an image whose steps become one layer on top of its base."""
        mounts = []
        if Path(_CERTIFICATES).exists():
            mounts += ["--volume", f"{_CERTIFICATES}:{_CERTIFICATES}:ro"]
        if build.target:
            mounts += ["--volume", f"{_host_uv_cache()}:{_UV_CACHE}"]
            mounts += ["--build-arg", f"UV_OPTIONS=--cache-dir {_UV_CACHE}"]
        options = ["--isolation", "chroot", "--network", "host", *mounts]
        run_logged(self._command("build", *options, *build.words()), log)

    def remove_other_tags(self, tag: str) -> None:
        """Forget the images of the same name but another tag, and those without any."""
        form = "{{.Name}}:{{.Tag}}"
        names = run(self._command("images", "--noheading", "--format", form)).split()
        family = f"localhost/{tag.partition(':')[0]}:"
        for other in names:
            if other.startswith(family) and other != f"localhost/{tag}":
                run(self._command("rmi", other))
        run(self._command("rmi", "--prune"))

    def unpacked_layers(self, tag: str) -> Mapping[str, Path]:
        """The folders of an image's layers, as far up as they are found."""
        overlay = self._store / "overlay"
        layers = json.loads((self._store / "overlay-layers" / "layers.json").read_text())
        folders = {each["diff-digest"]: overlay / each["id"] / "diff" for each in layers}
        diff_ids = self._inspect(tag)["OCIv1"]["rootfs"]["diff_ids"]
        found: dict[str, Path] = {}
        for chain, diff_id in zip(chain_identifiers(diff_ids), diff_ids, strict=True):
            if diff_id not in folders:
                break
            found[chain] = folders[diff_id]
        return found

    def archive(self, tag: str, known_layers: Collection[str]) -> Iterator[bytes]:
        """The image without the layers that are known: they are not even read here.

        In the layout that buildah writes, a file of the right name and size stands for such a
        layer, so that it finds the layer there already; the file is empty space.
        """
        with scratch() as folder:
            blobs = folder / "blobs" / "sha256"
            blobs.mkdir(parents=True)
            placeholders = self._known(tag, known_layers)
            for digest, size in placeholders.items():
                with (blobs / digest.removeprefix("sha256:")).open("wb") as file:
                    file.truncate(size)
            push = ("push", "--disable-compression", "--format", "oci", tag, f"oci:{folder}:{tag}")
            run(self._command(*push), timeout_seconds=1200)
            yield from _packed(folder, f"docker.io/library/{tag}", placeholders)

    def _known(self, tag: str, known_layers: Collection[str]) -> dict[str, int]:
        """The layers of an image that are known by the chain they end: digest → size."""
        image = self._inspect(tag)
        layers = json.loads(image["Manifest"])["layers"]
        chain = chain_identifiers(image["OCIv1"]["rootfs"]["diff_ids"])
        pairs = zip(chain, layers, strict=True)
        return {layer["digest"]: layer["size"] for key, layer in pairs if key in known_layers}

    def _make_base(self, tag: str) -> None:
        with scratch() as folder:
            options = ("--variant=minbase", f"--include={_BASE_PACKAGES}")
            command = ("mmdebstrap", *options, _DEBIAN, folder / "base.tar")
            run_logged(command, cache_root() / "logs" / "base.log")
            (folder / "Containerfile").write_text("FROM scratch\nADD base.tar /\n")
            run(self._command("build", "--isolation", "chroot", "--tag", tag, str(folder)))

    def _inspect(self, tag: str) -> dict[str, Any]:
        image: dict[str, Any] = json.loads(run(self._command("inspect", "--type", "image", tag)))
        return image

    @property
    def _store(self) -> Path:
        return cache_root() / "buildah"

    def _command(self, *words: str) -> list[str]:
        places = ["--root", str(self._store), "--runroot", f"{self._store}-run"]
        return ["buildah", *places, "--storage-driver", "overlay", *words]


def _packed(layout: Path, name: str, left_out: Collection[str]) -> Iterator[bytes]:
    """An archive of the one image in a layout, less some of its layers."""
    index = json.loads((layout / "index.json").read_text())
    manifest = _blob_file(layout, index["manifests"][0]["digest"]).read_bytes()
    document = json.loads(manifest)
    parts = [document["config"], *document["layers"]]
    blobs = [
        Blob(part["digest"], part["size"], _blob_file(layout, part["digest"]))
        for part in parts
        if part["digest"] not in left_out
    ]
    return archive(name, manifest, blobs)


def _blob_file(layout: Path, digest: str) -> Path:
    return layout / "blobs" / digest.replace(":", "/")


def _host_uv_cache() -> Path:
    """uv's cache on this machine: what was downloaded for the checkout is not downloaded again."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(os.environ.get("UV_CACHE_DIR") or base / "uv")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
