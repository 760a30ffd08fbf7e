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

from trainyard_trainer.runtime import modelfile

DOCUMENT: Final = "trainyard"
"""The key of the file's metadata under which the JSON document stands."""
PAIRS: Final = "complex128"
"""The key of the names of tensors that are stored as pairs of reals."""
HEADER_BYTES: Final = 8
"""A safetensors file begins with its header's length, an unsigned little-endian integer."""


def encode(tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> bytes:
    """The safetensors file of `tensors` (any shapes and dtypes, copied to the CPU) and JSON.

    complex128, which the format lacks, is stored as pairs of reals, and named in the metadata.
    """
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    pairs = [name for name, tensor in held.items() if tensor.dtype is torch.complex128]
    held |= {name: torch.view_as_real(held[name].resolve_conj()).contiguous() for name in pairs}
    metadata = {DOCUMENT: json.dumps(document, allow_nan=False)}
    if pairs:
        metadata[PAIRS] = json.dumps(pairs)
    return safetensors.torch.save(_unshared(held), metadata=metadata)


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with memory of their own each, which the format demands."""
    seen: set[int] = set()
    for name, tensor in tensors.items():
        pointer = tensor.untyped_storage().data_ptr()
        if pointer in seen:
            tensors[name] = tensor.clone()
        seen.add(pointer)
    return tensors


def load_tensors(data: bytes) -> dict[str, Tensor]:
    """The tensors of a safetensors file, pairs of reals as complex128 again."""
    tensors = safetensors.torch.load(data)
    for name in json.loads(_metadata(data).get(PAIRS, "[]")):
        tensors[name] = torch.view_as_complex(tensors[name])
    return tensors


def load_model_file(data: bytes, source: str) -> dict[str, Tensor]:
    """The tensors of a starting model; raises ValueError for a pickled one, with a mend."""
    if modelfile.is_pickled(data[: modelfile.START_BYTES]):
        raise ValueError(modelfile.pickled(source))
    return load_tensors(data)


def _metadata(data: bytes) -> dict[str, str]:
    length = int.from_bytes(data[:HEADER_BYTES], "little")
    found: dict[str, str] = json.loads(data[HEADER_BYTES : HEADER_BYTES + length]).get(
        "__metadata__", {}
    )
    return found


def decode(data: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, on the CPU, and the document; raises ValueError for a file without one."""
    text = _metadata(data).get(DOCUMENT)
    if text is None:
        raise ValueError("the safetensors file holds no training state")
    return load_tensors(data), json.loads(text)


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
            if unfit := [k for k in tree if not isinstance(k, None | bool | int | float | str)]:
                raise TypeError(f"{prefix} has a key {unfit[0]!r}, which cannot be stored")
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


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """`Optimizer.load_state_dict` without its casts, so that state keeps the dtypes it had.

    PyTorch casts floating-point state to the dtype of its parameter.
    """
    optimizer.load_state_dict(state)
    params = [param for group in optimizer.param_groups for param in group["params"]]
    for index, stored in state["state"].items():
        held = optimizer.state[params[index]]
        for key, value in stored.items():
            if isinstance(value, Tensor) and held[key].dtype != value.dtype:
                held[key] = value.to(held[key].device)


def file_tensors(model: nn.Module) -> dict[str, Tensor]:
    """What `load_state_dict` expects: tied tensors under each name, persistent buffers alone."""
    return {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}


def file_names(model: nn.Module) -> dict[str, list[str]]:
    """The names under which a model file has each of `model_tensors`; none for temporary ones."""
    stored, names = file_tensors(model), dict[str, list[str]]()
    for name, first in _aliases(model).items():
        names.setdefault(first, []).extend([name] if name in stored else [])
    return names


def load_model(model: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Copy `tensors` into the model; raises ValueError naming what does not fit.

    Of tied tensors one name is enough, buffers that are not persistent may be missing, and the
    prefixes of `torch.compile` and DistributedDataParallel do not count.
    """
    mine, aliases = model_tensors(model), _aliases(model)
    given = {own: tensors[name] for name, own in modelfile.own_names(tensors, aliases).items()}
    found: dict[str, Tensor] = {}
    if unknown := sorted(given.keys() - aliases.keys()):
        raise ValueError(f"{source} has {', '.join(unknown[:5])}, which the model lacks")
    for name, tensor in sorted(given.items(), key=lambda item: item[0]):
        first = found.setdefault(aliases[name], tensor)
        if first is not tensor and not torch.equal(first, tensor):
            raise ValueError(f"{source} has other values for {name} than for what it is tied to")
    optional = mine.keys() - file_tensors(model).keys()
    if missing := sorted(mine.keys() - found.keys() - optional):
        raise ValueError(f"{source} lacks {', '.join(missing[:5])}, which the model has")
    with torch.no_grad():
        for name, tensor in found.items():
            if mine[name].shape != tensor.shape:
                shapes = f"{tuple(tensor.shape)}, not {tuple(mine[name].shape)}"
                raise ValueError(f"{source} has {name} in shape {shapes}")
            mine[name].copy_(tensor)


def _aliases(model: nn.Module) -> dict[str, str]:
    """The first name of the tensor behind each name."""
    first: dict[int, str] = {id(tensor): name for name, tensor in model_tensors(model).items()}
    named = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    return {name: first[id(tensor)] for name, tensor in named}


def digest(tensors: Mapping[str, Tensor]) -> str:
    """BLAKE2b over names and bytes: equal for bitwise equal state, and only for it."""
    summary = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        summary.update(name.encode())
        held = tensors[name].detach().cpu().contiguous().reshape(-1)
        summary.update(held.view(torch.uint8).numpy().data)
    return summary.hexdigest()
