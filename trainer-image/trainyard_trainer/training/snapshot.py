"""Training state as one safetensors file in memory, and back.

What a survivor broadcasts to a joiner is byte for byte what a checkpoint holds. Tensors keep their
names and dtypes; everything else is JSON in the file's metadata, so that nothing is ever pickled.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, Final

import safetensors.torch
import torch
from torch import Tensor, nn

DOCUMENT: Final = "trainyard"
"""The key of the file's metadata under which the JSON document stands."""
HEADER_BYTES: Final = 8
"""A safetensors file begins with its header's length, an unsigned little-endian integer."""


def encode(tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> bytes:
    """The safetensors file of `tensors` (any shapes and dtypes, copied to the CPU) and JSON."""
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(document, allow_nan=False)
    return safetensors.torch.save(held, metadata={DOCUMENT: text})


def decode(data: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, on the CPU, and the document; raises ValueError for a file without one."""
    length = int.from_bytes(data[:HEADER_BYTES], "little")
    header = json.loads(data[HEADER_BYTES : HEADER_BYTES + length])
    text = header.get("__metadata__", {}).get(DOCUMENT)
    if text is None:
        raise ValueError("the safetensors file holds no training state")
    return safetensors.torch.load(data), json.loads(text)


def flatten(tree: Any, prefix: str, tensors: dict[str, Tensor]) -> Any:
    """`tree` as JSON, each tensor in it moved to `tensors` under a name that starts with `prefix`.

    Keeps tuples and dictionaries with keys of any type apart from their JSON likenesses. Raises
    TypeError for a value that JSON cannot represent.
    """
    match tree:
        case Tensor():
            tensors[prefix] = tree
            return {"$tensor": prefix}
        case dict():
            items = [[k, flatten(v, f"{prefix}.{k}", tensors)] for k, v in tree.items()]
            return {"$items": items}
        case list() | tuple():
            values = [flatten(v, f"{prefix}.{i}", tensors) for i, v in enumerate(tree)]
            return values if isinstance(tree, list) else {"$tuple": values}
        case float() if not math.isfinite(tree):
            return {"$float": repr(float(tree))}  # JSON has no such numbers.
        case None | bool() | int() | float() | str():
            return tree
        case _:
            raise TypeError(f"{prefix} holds a {type(tree).__name__}, which cannot be stored")


def unflatten(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The tree of which `flatten` made `value` and `tensors`."""
    match value:
        case {"$tensor": name}:
            return tensors[name]
        case {"$float": text}:
            return float(text)
        case {"$items": items}:
            return {k: unflatten(v, tensors) for k, v in items}
        case {"$tuple": values}:
            return tuple(unflatten(v, tensors) for v in values)
        case list():
            return [unflatten(v, tensors) for v in value]
        case _:
            return value


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name; tied ones once, under their first name."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def load_model(model: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Copy `tensors` into the model; raises ValueError naming what does not fit."""
    mine = model_tensors(model)
    if missing := sorted(mine.keys() - tensors.keys()):
        raise ValueError(f"{source} lacks {', '.join(missing[:5])}, which the model has")
    if unknown := sorted(tensors.keys() - mine.keys()):
        raise ValueError(f"{source} has {', '.join(unknown[:5])}, which the model lacks")
    with torch.no_grad():
        for name, target in mine.items():
            if target.shape != tensors[name].shape:
                shapes = f"{tuple(tensors[name].shape)}, not {tuple(target.shape)}"
                raise ValueError(f"{source} has {name} in shape {shapes}")
            target.copy_(tensors[name])


def digest(tensors: Mapping[str, Tensor]) -> str:
    """BLAKE2b over names and bytes: equal for bitwise equal state, and only for it."""
    summary = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        summary.update(name.encode())
        held = tensors[name].detach().cpu().contiguous().reshape(-1)
        summary.update(held.view(torch.uint8).numpy().data)
    return summary.hexdigest()
