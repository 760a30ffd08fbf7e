"""Giving images to the containerd of a local cluster, no layer twice."""

from __future__ import annotations

from tools.localcluster.containerd import Containerd
from tools.localcluster.engines import Engine
from tools.localcluster.errors import ClusterError
from tools.localcluster.images import build_image, images_turn, own_tags


def load(containerd: Containerd, engine: Engine, tag: str) -> None:
    """Make an image usable by pods; one of our own is built first, if anything changed."""
    with images_turn():
        if tag in own_tags():
            build_image(engine, tag)
        elif not engine.has(tag):
            raise ClusterError(
                f"There is no image {tag} on this machine, and it is none of ours "
                f"({', '.join(own_tags())}): build or pull it first."
            )
        _give(containerd, engine, tag)


def _give(containerd: Containerd, engine: Engine, tag: str) -> None:
    """Share the layers that lie unpacked here, then import the rest of the image."""
    present, parent, adopted = containerd.snapshots(), "", []
    for chain, folder in engine.unpacked_layers(tag).items():
        if chain not in present:
            containerd.adopt(chain, parent, folder)
            adopted.append(chain)
        parent = chain
    containerd.load(engine.archive(tag, present.union(adopted)))
    for chain in adopted:
        containerd.release(chain)
