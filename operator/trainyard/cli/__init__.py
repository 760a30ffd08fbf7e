"""What users type: `trainyard` and `kubectl trainyard`."""

from trainyard.cli.app import main

__all__ = ["main"]
