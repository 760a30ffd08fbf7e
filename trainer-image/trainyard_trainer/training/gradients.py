"""Gradients in flat buffers, one per dtype, that collectives reduce in place.

A collective that failed may go on writing into its buffer for a while, so the gradients then move
to fresh buffers (`renew`).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from trainyard_trainer.runtime.exits import TaskInvalid


class Gradients:
    """The gradients of `params`, each a view into the flat buffer of its dtype."""

    def __init__(self, params: Iterable[nn.Parameter]) -> None:
        """`params` are those that need gradients; tied ones count once."""
        self.params = [p for p in dict.fromkeys(params) if p.requires_grad]
        self.flat: list[Tensor] = []
        self._views: list[Tensor] = []
        self.renew()

    def renew(self) -> None:
        """Abandon the buffers to operations that may still write to them; start with new zeros."""
        self.flat = []
        views: dict[nn.Parameter, Tensor] = {}
        for dtype in dict.fromkeys(p.dtype for p in self.params):
            group = [p for p in self.params if p.dtype == dtype]
            flat = torch.zeros(sum(p.numel() for p in group), dtype=dtype, device=group[0].device)
            # No collective knows complex numbers; their sums are those of their parts.
            real = torch.view_as_real(flat).view(-1) if dtype.is_complex else flat
            self.flat.append(real)
            parts = torch.split(flat, [p.numel() for p in group])
            views.update(zip(group, parts, strict=True))
        self._views = [views[p].view_as(p) for p in self.params]
        for param, view in zip(self.params, self._views, strict=True):
            param.grad = view

    def zero(self) -> None:
        """Set all gradients to zero, so that parameters that no batch used have one too."""
        for flat in self.flat:
            flat.zero_()

    def check(self) -> None:
        """Raise TaskInvalid when the task has replaced the gradients by its own."""
        for param, view in zip(self.params, self._views, strict=True):
            if param.grad is not view:
                kind = "sparse" if param.grad is not None and param.grad.is_sparse else "own"
                raise TaskInvalid(f"the task makes {kind} gradients, which cannot be reduced")

    def divide(self, weight: float) -> None:
        """Divide the sums by the total weight, which makes them means."""
        for flat in self.flat:
            flat.div_(weight)

    def clip(self, norm: float) -> None:
        """Scale all gradients down so that their joint Euclidean norm is at most `norm`."""
        total = torch.linalg.vector_norm(
            torch.stack([torch.linalg.vector_norm(flat.double()) for flat in self.flat])
        )
        scale = (norm / (total + 1e-6)).clamp(max=1.0)
        for flat in self.flat:
            flat.mul_(scale)
