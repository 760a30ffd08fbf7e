"""A user's Task with a defect: its loss raises in the third step."""

from __future__ import annotations

from typing import Any

from trainyard_trainer.tasks.digits import Digits


class Crashing(Digits):
    """Digits until the user's own code divides by nothing."""

    calls = 0

    def loss(self, model: Any, batch: Any) -> Any:
        """Raise a plain exception from the user's own line."""
        self.calls += 1
        if self.calls > 3:
            raise ZeroDivisionError("the user's own mistake")
        return super().loss(model, batch)
