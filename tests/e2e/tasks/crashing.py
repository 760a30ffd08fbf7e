"""A user's Task whose loss raises in an early step."""

from __future__ import annotations

from typing import Any

from trainyard_trainer.tasks.digits import Digits


class Crashing(Digits):
    """Digits, until the loss raises."""

    calls = 0

    def loss(self, model: Any, batch: Any) -> Any:
        """Raise an exception in the fourth call."""
        self.calls += 1
        if self.calls > 3:
            raise ZeroDivisionError("the user's own mistake")
        return super().loss(model, batch)
