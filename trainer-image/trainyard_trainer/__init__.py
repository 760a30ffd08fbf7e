"""Trainyard's trainer: one Task, trained on one process or on many that come and go."""

from typing import Final

__version__: Final = "0.1.0"
