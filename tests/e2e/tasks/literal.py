"""A user's Task that wants its arguments exactly as they are written."""

from __future__ import annotations

import os
from typing import Any

from trainyard_trainer.tasks.digits import Digits

PRICE = "price in US$$ (not US$), ${HOME} and $"
RUN = "run-$(TRAINYARD_JOB)-$(TRAINYARD_NAMESPACE)"


class Literal(Digits):
    """Digits, if nobody has replaced anything in the arguments."""

    def __init__(self, price: str, run: str, **args: Any) -> None:
        super().__init__(**args)
        found = {"price": price, "run": run, "PRICE": os.environ.get("PRICE")}
        if found != {"price": PRICE, "run": RUN, "PRICE": "US$ of literal"}:
            raise ValueError(f"what was written has changed on its way: {found}")
