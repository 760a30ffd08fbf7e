"""What all tests share."""

from __future__ import annotations

from hypothesis import settings

# No test asserts on a speed: a busy machine is not a failure.
settings.register_profile("trainyard", deadline=None)
settings.load_profile("trainyard")
