"""Model files as others publish them: their tensors' names, and pickled files; no torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

PICKLES: Final = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04")
"""How files of `torch.save` begin."""
START_BYTES: Final = 9
"""As many bytes tell a pickled file from a safetensors file."""
CONVERT: Final = (
    'python -c "import torch; from safetensors.torch import save_file; '
    "save_file({k: v.clone() for k, v in torch.load('model.bin', weights_only=True).items()}, "
    "'model.safetensors')\""
)
COMPILED: Final = "_orig_mod."
"""What `torch.compile` puts into names."""
PARALLEL: Final = "module."
"""What DistributedDataParallel puts before names."""


def is_pickled(start: bytes) -> bool:
    """Whether a file that begins with these `START_BYTES` is pickled."""
    # The length of a safetensors header may have the same two bytes, but JSON follows.
    return start.startswith(PICKLES) and start[8:START_BYTES] != b"{"


def pickled(source: str) -> str:
    """What is wrong with a pickled model file, and the mend."""
    return f"{source} is pickled; convert it with: {CONVERT}"


def own_names(given: Iterable[str], known: Iterable[str]) -> dict[str, str]:
    """The model's own name for each name in a file, whatever wrapped the model that was stored.

    A name that is none of those `known` to the model is left as it is.
    """
    bare = {name.replace(COMPILED, ""): name for name in known}
    stripped = {name: name.replace(COMPILED, "") for name in given}
    if bare.keys().isdisjoint(stripped.values()):
        stripped = {name: value.removeprefix(PARALLEL) for name, value in stripped.items()}
    return {name: bare.get(value, name) for name, value in stripped.items()}
