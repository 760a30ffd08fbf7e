"""Trainyard's operator: it creates, scales and explains training jobs on Kubernetes."""

from typing import Final

__version__: Final = "0.1.0"
