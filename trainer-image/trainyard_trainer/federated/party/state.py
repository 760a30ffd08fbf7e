"""A party's model in one contiguous buffer, in the layout of the wire.

The buffer is received into, copied from and sent, so a round allocates nothing.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from trainyard_trainer.federated.protocol.layout import Entry, Layout
from trainyard_trainer.runtime.exits import TaskInvalid
from trainyard_trainer.training import snapshot

DTYPES: Final = {
    torch.float64: "F64",
    torch.int64: "I64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class ModelState:
    """Parameters and buffers of a model, flattened."""

    def __init__(self, model: nn.Module) -> None:
        """Raises TaskInvalid for an unsupported dtype."""
        self._tensors = snapshot.model_tensors(model)
        trainable = {name for name, param in model.named_parameters() if param.requires_grad}
        names = snapshot.file_names(model)
        self.layout = Layout.of(
            _entry(name, tensor, name in trainable, names[name])
            for name, tensor in self._tensors.items()
        )
        self.memory = np.empty(self.layout.size, np.uint8)
        flat = torch.from_numpy(self.memory)
        self._views = {
            entry.name: flat[start : start + entry.size]
            .view(self._tensors[entry.name].dtype)
            .view(entry.shape)
            for entry, start in self.layout.offsets()
        }

    @property
    def data(self) -> memoryview:
        """The buffer, to send or to receive into."""
        return self.memory.data

    def pack(self) -> None:
        """Copy the model into the buffer."""
        for name, view in self._views.items():
            view.copy_(self._tensors[name].detach())

    def unpack(self) -> None:
        """Copy the buffer into the model."""
        with torch.no_grad():
            for name, view in self._views.items():
                self._tensors[name].copy_(view)


def _entry(name: str, tensor: Tensor, trainable: bool, file_names: list[str]) -> Entry:
    if (dtype := DTYPES.get(tensor.dtype)) is None:
        raise TaskInvalid(f"the model's {name} has the unsupported dtype {tensor.dtype}")
    return Entry(
        name=name,
        dtype=dtype,
        shape=tuple(tensor.shape),
        trainable=trainable,
        file_names=None if file_names == [name] else tuple(file_names),
    )
